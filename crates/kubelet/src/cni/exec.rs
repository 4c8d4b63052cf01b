//! Running a plugin.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::request::{IFNAME, Sandbox, complaint};

/// The longest a plugin may take.
const LIMIT: Duration = Duration::from_secs(60);
/// A program that is just being written cannot be run: so often it is tried again, and after so long.
const BUSY_TRIES: u32 = 10;
const BUSY_WAIT: Duration = Duration::from_millis(200);

/// What a plugin is called for.
pub(super) struct Call<'a> {
    /// `ADD`, `DEL`, `CHECK` or `STATUS`.
    pub(super) verb: &'static str,
    /// For whom; nobody in particular for `STATUS`.
    pub(super) sandbox: Option<Sandbox>,
    /// `CNI_ARGS`.
    pub(super) args: &'a [(String, String)],
    /// Where plugins are.
    pub(super) bin_dirs: &'a [PathBuf],
}

impl Call<'_> {
    /// Runs the plugin of this configuration with `input`; what it answers, or why that is nothing good.
    pub(super) async fn run(&self, plugin: &Map<String, Value>, input: &Value) -> Result<Value, String> {
        let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
        let verb = self.verb.to_lowercase();
        let program = self.bin_dirs.iter().map(|dir| dir.join(kind)).find(|path| path.is_file());
        let Some(program) = program else {
            let dirs: Vec<String> = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
            return Err(format!("failed to find plugin {kind:?} in path [{}]", dirs.join(" ")));
        };
        let failed = |said: String| format!("plugin type={kind:?} failed ({verb}): {said}");
        let mut command = Command::new(&program);
        command.env("CNI_COMMAND", self.verb).env("CNI_PATH", self.path());
        if let Some(sandbox) = &self.sandbox {
            let args: Vec<String> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
            command
                .env("CNI_CONTAINERID", &sandbox.container_id)
                .env("CNI_NETNS", sandbox.netns.as_deref().unwrap_or_default())
                .env("CNI_IFNAME", IFNAME)
                .env("CNI_ARGS", args.join(";"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = spawn(&mut command).await.map_err(|error| failed(error.to_string()))?;
        let text = input.to_string();
        let stdin = child.stdin.take();
        let exchange = async {
            if let Some(mut stdin) = stdin {
                // Who reads nothing may have what it needs; what became of it, its answer says.
                let _ = stdin.write_all(text.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = match tokio::time::timeout(LIMIT, exchange).await {
            Ok(output) => output.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed(format!("it took longer than {LIMIT:?} and was ended"))),
        };
        if !output.status.success() {
            return Err(failed(complaint(&output.stdout, &output.stderr, &output.status.to_string())));
        }
        if output.stdout.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| failed(format!("its result is not JSON: {error}")))
    }

    fn path(&self) -> String {
        let dirs: Vec<String> = self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect();
        dirs.join(":")
    }
}

async fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut tries = 0;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(BUSY_WAIT).await;
            }
            other => return other,
        }
    }
}
