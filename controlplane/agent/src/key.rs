//! The agent's own key: what it signs handovers with.

use std::path::Path;

use domicile_model::SecretRef;
use domicile_seal::keys::PrivateKey;

use crate::failure::Failure;
use crate::os::Owner;

/// The key in the agent's directory, made at its first start. Never replaced by itself: a key that can't be used is a
/// problem for a person, who decides whether the next one is to be trusted.
///
/// # Errors
/// When there is one that can't be used, or none can be made.
pub(crate) fn own(dir: &Path, owner: &Owner) -> Result<PrivateKey, Failure> {
    let path = dir.join("handover.key");
    let unusable = |why: String| {
        Failure::machine(format!("the key that handovers are signed with can't be used: {why}")).hint(
            "no planned move away from here works until it is mended: restore it; or remove it, restart the agent, and trust its new key with `domicile cell trust-agent`",
        )
    };
    match path.try_exists() {
        Ok(true) => {
            let secret = SecretRef::File(path.display().to_string());
            PrivateKey::read(&secret).map_err(|e| unusable(e.to_string()))
        }
        Ok(false) => {
            let key = PrivateKey::generate().map_err(|e| unusable(e.to_string()))?;
            owner.write(&path, key.to_text().as_bytes())?;
            Ok(key)
        }
        Err(e) => Err(unusable(format!("{}: {e}", path.display()))),
    }
}
