//! Which machine this is.

/// What the firmware says of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// An EC2 instance with this id.
    Instance(String),
    /// A machine that is no such instance.
    Other,
    /// The firmware does not say it, or is not shown: a Xen instance, some containers.
    Unknown,
}

impl Identity {
    /// The instance's id, where it is known.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Instance(id) => Some(id),
            Self::Other | Self::Unknown => None,
        }
    }
}
