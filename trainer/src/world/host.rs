//! The name of this machine.

/// Returns the host name, or `localhost` where the system does not tell.
#[cfg(unix)]
pub fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

/// Returns the host name, or `localhost` where the system does not tell.
#[cfg(not(unix))]
pub fn host_name() -> String {
    super::env::variable("COMPUTERNAME").unwrap_or_else(|| "localhost".to_owned())
}
