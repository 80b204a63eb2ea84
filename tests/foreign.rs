//! Providers for login systems of others, each tried against a small server
//! that answers as the real one does: its statuses, bodies, lifetimes, and what
//! it says of a wrong password and of a dead token.
//!
//! Each file begins with the provider, as a user would write it, and ends with
//! the server.

mod foreign {
    mod elasticsearch;
    mod f5;
    mod jenkins;
    mod keycloak;
    mod proxmox;
    mod qbittorrent;
    mod server;
    mod splunk;
    mod vault;
    mod vcenter;
    mod zabbix;
}
