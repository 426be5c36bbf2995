//! What is said of TLS: towards clients, and between routers.

use domicile_model::HostName;

use super::Given;
use crate::tls::peers::PeerConfig;
use crate::tls::{ClientAuth, TlsConfig};

/// What was given, checked; none where no TLS is wanted or something is wrong, which `note` then hears of.
pub(super) fn clients(given: &Given, note: &mut impl FnMut(&str, String)) -> Option<TlsConfig> {
    let auth = match given.tls_client_auth.as_deref() {
        None if given.tls_client_ca.is_some() => ClientAuth::Optional,
        None | Some("off") => ClientAuth::Off,
        Some("optional") => ClientAuth::Optional,
        Some("required") => ClientAuth::Required,
        Some(_) => {
            note("tls-client-auth", "write `off`, `optional` or `required`".into());
            ClientAuth::Off
        }
    };
    match (auth, &given.tls_client_ca) {
        (ClientAuth::Optional | ClientAuth::Required, None) => {
            note("tls-client-ca", "name the authorities that may sign clients' certificates".into());
        }
        (ClientAuth::Off, Some(_)) => {
            note("tls-client-auth", "`off` asks nobody for a certificate: leave --tls-client-ca out".into());
        }
        _ => {}
    }
    let only_13 = match given.tls_min.as_deref() {
        None | Some("1.2") => false,
        Some("1.3") => true,
        Some(_) => {
            note("tls-min", "write `1.2` or `1.3`: what is older is broken".into());
            false
        }
    };
    let default_name = given.tls_default_name.as_deref().and_then(|name| {
        let found = HostName::new(name);
        if let Err(why) = &found {
            note("tls-default-name", why.to_string());
        }
        found.ok().map(|name| name.as_str().to_owned())
    });
    let refuse_encrypted = match given.tls_encrypted_hello.as_deref() {
        None | Some("outer") => false,
        Some("refuse") => true,
        Some(_) => {
            note("tls-encrypted-hello", "write `outer` or `refuse`".into());
            false
        }
    };
    let wanted = given.listen_tls.is_some();
    let others = [
        ("tls-certs", given.tls_certs.is_some()),
        ("tls-client-ca", given.tls_client_ca.is_some()),
        ("tls-client-auth", given.tls_client_auth.is_some()),
        ("tls-min", given.tls_min.is_some()),
        ("tls-default-name", given.tls_default_name.is_some()),
        ("tls-encrypted-hello", given.tls_encrypted_hello.is_some()),
    ];
    for (name, _) in others.iter().filter(|(_, there)| *there && !wanted) {
        note(name, "says something about TLS, but there is no --listen-tls".into());
    }
    let certs = match &given.tls_certs {
        None if wanted && given.peer_cert.is_none() => {
            note("tls-certs", "name the folder with certificates and keys".into());
            return None;
        }
        other => other.clone(),
    };
    certs.filter(|_| wanted).map(|certs| TlsConfig {
        certs,
        client_ca: given.tls_client_ca.clone(),
        client_auth: auth,
        only_13,
        default_name,
        refuse_encrypted,
    })
}

/// What was given for TLS between routers: all of it or nothing.
pub(super) fn peers(given: &Given, note: &mut impl FnMut(&str, String)) -> Option<PeerConfig> {
    let all = [("peer-ca", &given.peer_ca), ("peer-cert", &given.peer_cert), ("peer-key", &given.peer_key)];
    match (&given.peer_ca, &given.peer_cert, &given.peer_key) {
        (None, None, None) => None,
        (Some(ca), Some(cert), Some(key)) => {
            Some(PeerConfig { ca: ca.clone(), cert: cert.clone(), key: key.clone() })
        }
        _ => {
            for (name, _) in all.iter().filter(|(_, given)| given.is_none()) {
                note(name, "TLS between routers needs --peer-ca, --peer-cert and --peer-key".into());
            }
            None
        }
    }
}
