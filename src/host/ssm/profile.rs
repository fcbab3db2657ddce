//! A profile that does not exist: the SDK passes it over, as if none were named.

use super::failure::Failure;

/// Why nothing was found, where that is why.
pub async fn explained<T>(found: Result<T, Failure>) -> Result<T, Failure> {
    let Err(Failure::CredentialsMissing | Failure::RegionMissing) = found else {
        return found;
    };
    match missing().await {
        Some(name) => Err(Failure::NoProfile(name)),
        None => found,
    }
}

/// The profile that `AWS_PROFILE` names, if neither file of profiles has it.
async fn missing() -> Option<String> {
    let (system, environment, files) = Default::default();
    let read = aws_config::profile::load(&system, &environment, &files, None);
    let profiles = read.await.ok()?;
    let name = profiles.selected_profile();
    let is_missing = name != "default" && profiles.get_profile(name).is_none();
    is_missing.then(|| name.chars().take(64).collect())
}
