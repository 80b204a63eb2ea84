//! The beginning of a text of any length.

use std::fmt::{self, Display, Write};

use zeroize::Zeroizing;

use super::redact::Extent;

/// The beginning of a text, in a buffer that never grows and is wiped on drop.
///
/// Text beyond the limit is not stored, and the writer gets an error, which
/// ends even a text without an end.
pub(crate) struct Excerpt {
    text: Zeroizing<String>,
    limit: usize,
    extent: Extent,
}

impl Excerpt {
    /// An empty text that takes at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            text: Zeroizing::new(String::with_capacity(limit)),
            limit,
            extent: Extent::Whole,
        }
    }

    /// Appends `text`. If it does not fit, or fails, the excerpt ends inside it.
    pub(crate) fn append(&mut self, text: impl Display) {
        if write!(self, "{text}").is_err() {
            self.cut();
        }
    }

    /// Ends the excerpt here: there is more, which it does not show.
    pub(crate) fn cut(&mut self) {
        self.extent = Extent::Cut;
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.extent == Extent::Cut
    }
}

impl Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self.is_cut() {
            true => f.write_char('…'),
            false => Ok(()),
        }
    }
}

impl Write for Excerpt {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // A later part may fit, but would hide that a secret was cut off before it.
        if self.is_cut() {
            return Err(fmt::Error);
        }
        let room = self.limit - self.text.len();
        if text.len() <= room {
            self.text.push_str(text);
            return Ok(());
        }
        let mut ends = (0..=room).rev();
        let end = ends.find(|end| text.is_char_boundary(*end));
        self.text.push_str(&text[..end.unwrap_or_default()]);
        self.cut();
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Endless;

    impl Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                f.write_str("again ")?;
            }
        }
    }

    #[test]
    fn a_text_that_fits_is_whole() {
        for limit in 5..8 {
            let mut excerpt = Excerpt::new(limit);
            excerpt.append("a");
            excerpt.append("b cd");
            assert_eq!(excerpt.as_str(), "ab cd");
            assert_eq!(excerpt.extent(), Extent::Whole);
        }
    }

    #[test]
    fn a_text_is_cut_at_the_last_character_that_fits() {
        for (limit, expected) in [(0, ""), (1, "a"), (2, "a"), (4, "a"), (5, "a\u{1F511}")] {
            let mut excerpt = Excerpt::new(limit);
            excerpt.append("a\u{1F511}b");
            assert_eq!(excerpt.as_str(), expected);
            assert!(excerpt.is_cut());
        }
    }

    #[test]
    fn a_text_without_an_end_is_cut() {
        let mut excerpt = Excerpt::new(1000);
        excerpt.append(Endless);
        assert_eq!(excerpt.as_str().len(), 1000);
        assert!(excerpt.is_cut());
    }

    #[test]
    fn the_buffer_never_grows() {
        let mut excerpt = Excerpt::new(1000);
        let capacity = excerpt.text.capacity();
        excerpt.append("x".repeat(900));
        excerpt.append(Endless);
        assert_eq!(excerpt.text.capacity(), capacity);
    }

    #[test]
    fn nothing_follows_a_cut_even_if_it_fits() {
        struct Stubborn;

        impl Display for Stubborn {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let _ = f.write_str("ab\u{1F511}");
                let _ = f.write_str("c");
                Ok(())
            }
        }

        let mut excerpt = Excerpt::new(4);
        excerpt.append(Stubborn);
        excerpt.append("d");
        assert_eq!(excerpt.as_str(), "ab");
    }

    #[test]
    fn a_text_that_fails_is_cut() {
        struct Failing;

        impl Display for Failing {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("begun")?;
                Err(fmt::Error)
            }
        }

        let mut excerpt = Excerpt::new(1000);
        excerpt.append(Failing);
        assert_eq!(excerpt.as_str(), "begun");
        assert!(excerpt.is_cut());
    }
}
