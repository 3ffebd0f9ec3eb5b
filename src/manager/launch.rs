//! Runs the shim's binary as containerd does: `start`, once per shim, and `delete`, after every
//! shim that went away (contract 1.2, 10.2 and 10.4).

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use protobuf::{Message, MessageField};

use crate::error::{Error, Result};
use crate::proto::bootstrap::{BootstrapParams, Extension, LogLevel};
use crate::proto::pack;
use crate::proto::runc_options::Options;
use crate::proto::task::DeleteResponse;

use super::command::{Output, output};
use super::dialect::{Dialect, Endpoint};

/// How long `start` may take.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long `delete` may take; containerd's own limit for it.
const DELETE_LIMIT: Duration = Duration::from_secs(5);

/// All that a manager tells a shim at its start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The binary.
    pub shim: PathBuf,
    /// Which containerd to be.
    pub dialect: Dialect,
    /// Containers with equal ids in different namespaces are different containers.
    pub namespace: String,
    /// The container's id.
    pub id: String,
    /// Where config.json and the log FIFO are; the shim's working directory.
    pub bundle: PathBuf,
    /// Address of the manager's own API. Nobody connects to it; it is part of the name of the
    /// shim's socket.
    pub grpc_address: String,
    /// Path of the socket on which the manager receives events.
    pub ttrpc_address: String,
    /// Path of the manager's binary.
    pub publish_binary: String,
    /// Options of the runtime, if there are any to tell.
    pub options: Option<Options>,
    /// Whether the shim should log at debug level.
    pub debug: bool,
    /// Directory for the shim's socket; told by [`Dialect::Proto23`] only.
    pub socket_dir: Option<String>,
    /// Further environment variables, as an operator sets them in containerd's configuration.
    pub environment: Vec<(String, String)>,
    /// How long `delete` may take; containerd's own limit unless set otherwise.
    pub delete_limit: Duration,
}

impl Launch {
    /// A launch with nothing but what every launch has.
    pub fn new(
        shim: impl Into<PathBuf>,
        dialect: Dialect,
        id: &str,
        bundle: impl Into<PathBuf>,
    ) -> Self {
        let publish_binary = std::env::current_exe()
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default();
        Self {
            shim: shim.into(),
            dialect,
            namespace: "cotter".into(),
            id: id.into(),
            bundle: bundle.into(),
            grpc_address: String::new(),
            ttrpc_address: String::new(),
            publish_binary,
            options: None,
            debug: false,
            socket_dir: None,
            environment: Vec::new(),
            delete_limit: DELETE_LIMIT,
        }
    }

    /// The command line after the binary's name.
    pub fn arguments(&self, action: &str) -> Vec<String> {
        let mut arguments: Vec<String> = [
            "-namespace",
            &self.namespace,
            "-address",
            &self.grpc_address,
            "-publish-binary",
            &self.publish_binary,
            "-id",
            &self.id,
        ]
        .map(str::to_owned)
        .into();
        if action == "delete" {
            arguments.push("-bundle".into());
            arguments.push(self.bundle.to_string_lossy().into_owned());
        }
        if self.debug {
            arguments.push("-debug".into());
        }
        arguments.push(action.into());
        arguments
    }

    /// The environment variables in which the dialects differ. None: must not be set.
    fn environment(&self) -> [(&'static str, Option<String>); 3] {
        let newer = self.dialect != Dialect::Plain16;
        [
            ("GRPC_ADDRESS", newer.then(|| self.grpc_address.to_owned())),
            ("NAMESPACE", newer.then(|| self.namespace.to_owned())),
            // Always 2, even where 3 is understood: useless for negotiation.
            ("MAX_SHIM_VERSION", newer.then(|| "2".to_owned())),
        ]
    }

    /// What `start` finds on its standard input.
    ///
    /// # Errors
    /// When the options cannot be encoded.
    fn input(&self) -> Result<Vec<u8>> {
        let options = self.options.as_ref().map(pack).transpose();
        let encoded = options.and_then(|options| match self.dialect {
            Dialect::Plain16 | Dialect::Json17 => {
                options.map_or(Ok(Vec::new()), |options| options.write_to_bytes())
            }
            Dialect::Proto23 => BootstrapParams {
                instance_id: self.id.clone(),
                namespace: self.namespace.clone(),
                log_level: if self.debug {
                    LogLevel::LOG_LEVEL_DEBUG.into()
                } else {
                    LogLevel::LOG_LEVEL_INFO.into()
                },
                containerd_version: concat!("cotter-", env!("CARGO_PKG_VERSION")).into(),
                containerd_ttrpc_address: self.ttrpc_address.clone(),
                containerd_grpc_address: self.grpc_address.clone(),
                containerd_binary: self.publish_binary.clone(),
                extensions: options
                    .map(|options| Extension {
                        value: MessageField::some(options),
                        ..Extension::default()
                    })
                    .into_iter()
                    .collect(),
                socket_dir: self.socket_dir.clone(),
                ..BootstrapParams::default()
            }
            .write_to_bytes(),
        });
        encoded.map_err(|why| Error::unknown(format!("encode the input of start: {why}")))
    }

    fn command(&self, action: &str) -> Command {
        use std::os::unix::process::CommandExt;

        let mut command = Command::new(&self.shim);
        command
            .args(self.arguments(action))
            .current_dir(&self.bundle)
            .env("GOMAXPROCS", "2")
            .env("TTRPC_ADDRESS", &self.ttrpc_address)
            .process_group(0);
        for (name, value) in self.environment() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the shim, or finds the one that is there for the container's group already, and
    /// keeps its address in the bundle.
    ///
    /// # Errors
    /// When the binary fails, is not done in time or answers what this dialect does not understand.
    /// Containerd reads both outputs as one, so a word on standard error fails it too.
    pub async fn start(&self) -> Result<Endpoint> {
        let input = self.input()?;
        let output = output(self.command("start"), &input, START_LIMIT).await?;
        let stdout = self.checked("start", &output)?;
        if !output.stderr.is_empty() {
            return Err(self.failed("start", "it wrote to standard error", &output));
        }
        let endpoint = self.dialect.answer(stdout)?;
        endpoint.save(&self.bundle)?;
        Ok(endpoint)
    }

    /// Has the binary clean up after a shim that is gone.
    ///
    /// # Errors
    /// When the binary fails, is not done in time or answers something else.
    pub async fn delete(&self) -> Result<Deleted> {
        let output = output(self.command("delete"), b"", self.delete_limit).await?;
        let stdout = self.checked("delete", &output)?;
        let response = DeleteResponse::parse_from_bytes(stdout)
            .map_err(|_| self.failed("delete", "it answered something else", &output))?;
        Ok(Deleted {
            response,
            warnings: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn checked<'a>(&self, action: &str, output: &'a Output) -> Result<&'a [u8]> {
        if output.status.success() {
            Ok(&output.stdout)
        } else {
            Err(self.failed(action, &output.status.to_string(), output))
        }
    }

    fn failed(&self, action: &str, why: &str, output: &Output) -> Error {
        Error::unknown(format!(
            "{} {action}: {why}: {}{}",
            self.shim.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

/// What the `delete` action said.
#[derive(Clone, Debug, PartialEq)]
pub struct Deleted {
    /// Its answer.
    pub response: DeleteResponse,
    /// What it wrote to standard error; empty when there was nothing to say.
    pub warnings: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_lines_are_containerd_s() {
        let mut launch = Launch::new("/shim", Dialect::Plain16, "one", "/b");
        launch.namespace = "ns".into();
        launch.grpc_address = "/run/c.sock".into();
        launch.publish_binary = "/usr/bin/containerd".into();
        assert_eq!(
            launch.arguments("start").join(" "),
            "-namespace ns -address /run/c.sock -publish-binary /usr/bin/containerd -id one start"
        );
        launch.debug = true;
        assert_eq!(
            launch.arguments("delete").join(" "),
            "-namespace ns -address /run/c.sock -publish-binary /usr/bin/containerd -id one \
             -bundle /b -debug delete"
        );
    }
}
