//! Who asks, for a preflight check: which source gave the credentials, and which one the region.

use std::fmt;

use aws_credential_types::Credentials;
use aws_credential_types::credential_feature::AwsCredentialFeature;
use jiff::Timestamp;

/// The credentials that calls are made with. Nothing secret: the access key id is masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Which source gave them.
    pub source: CredentialSource,
    /// The access key id, masked: `ASIA…WXYZ`.
    pub access_key: String,
    /// When these credentials expire; a role's are renewed before that.
    pub expires: Option<Timestamp>,
}

/// Which source of the chain gave credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// The program's own settings.
    Given,
    /// `AWS_ACCESS_KEY_ID` and its companions.
    Environment,
    /// A profile in `~/.aws`, or where `AWS_CONFIG_FILE` says.
    Profile,
    /// A role that a profile or token file assumes.
    AssumedRole,
    /// The container's credentials endpoint.
    Container,
    /// The instance profile, over IMDSv2.
    InstanceRole,
}

/// Which source named the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionSource {
    /// The program's own settings.
    Given,
    /// `AWS_REGION` or `AWS_DEFAULT_REGION`.
    Environment,
    /// A profile.
    Profile,
    /// The instance's own region.
    InstanceMetadata,
}

impl CredentialSource {
    /// The source that marked these credentials.
    pub(super) fn of(credentials: &Credentials) -> Self {
        let marks = credentials.get_property::<Vec<AwsCredentialFeature>>();
        let has = |wanted: &AwsCredentialFeature| marks.is_some_and(|marks| marks.contains(wanted));
        let sources = [
            (
                AwsCredentialFeature::CredentialsStsAssumeRole,
                Self::AssumedRole,
            ),
            (
                AwsCredentialFeature::CredentialsStsAssumeRoleWebId,
                Self::AssumedRole,
            ),
            (AwsCredentialFeature::CredentialsImds, Self::InstanceRole),
            (AwsCredentialFeature::CredentialsHttp, Self::Container),
            (AwsCredentialFeature::CredentialsProfile, Self::Profile),
            (AwsCredentialFeature::CredentialsEnvVars, Self::Environment),
        ];
        sources
            .into_iter()
            .find(|(mark, _)| has(mark))
            .map_or(Self::Given, |(_, source)| source)
    }
}

/// The first and last four characters; nothing of a short id, which would be most of it.
pub(super) fn masked(id: &str) -> String {
    let length = id.chars().count();
    if length < 12 {
        return "…".to_owned();
    }
    let head: String = id.chars().take(4).collect();
    let tail: String = id.chars().skip(length - 4).collect();
    format!("{head}…{tail}")
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given => "settings",
            Self::Environment => "environment",
            Self::Profile => "profile",
            Self::AssumedRole => "assumed role",
            Self::Container => "container credentials",
            Self::InstanceRole => "instance role",
        })
    }
}

impl fmt::Display for RegionSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given => "settings",
            Self::Environment => "environment",
            Self::Profile => "profile",
            Self::InstanceMetadata => "instance metadata",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn an_access_key_id_is_masked() {
        assert_eq!(masked("ASIAIOSFODNN7EXAMPLE"), "ASIA…MPLE");
        assert_eq!(masked("ASIA1234"), "…");
        assert_eq!(masked(""), "…");
    }
}
