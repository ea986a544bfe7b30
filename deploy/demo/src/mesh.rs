//! The mesh of the demo: which instances there are, where each of them listens, and how its processes are started.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::family::{self, Family};
use crate::ports::Ports;

/// How long something may take to start, or to arrive everywhere: far more than it does, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The name of the control plane among the processes.
pub(crate) const CONTROL: &str = "control";

/// An instance of a service: an application and its sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) service: &'static str,
    pub(crate) version: &'static str,
    /// Where the application listens: only its sidecar is to call it there.
    pub(crate) application: SocketAddr,
    /// Where the sidecar takes what others send to the instance.
    pub(crate) inbound: SocketAddr,
    /// The sidecar's admin interface.
    pub(crate) admin: SocketAddr,
    /// Services that it calls, and where its sidecar takes these calls.
    pub(crate) calls: Vec<(&'static str, SocketAddr)>,
}

impl Instance {
    fn new(ports: &mut Ports, service: &'static str, version: &'static str, name: &str) -> Result<Self, String> {
        let calls: &[&str] = if service == "orders" { &["users", "products"] } else { &[] };
        Ok(Self {
            name: name.to_owned(),
            service,
            version,
            application: ports.take()?,
            inbound: ports.take()?,
            admin: ports.take()?,
            calls: calls.iter().map(|call| Ok((*call, ports.take()?))).collect::<Result<_, String>>()?,
        })
    }

    /// The name of the sidecar among the processes.
    fn sidecar(&self) -> String {
        format!("{}-sidecar", self.name)
    }

    /// The object by which the mesh knows it.
    fn workload(&self) -> String {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: {}\n  labels:\n    app: {}\n    \
             version: {}\nspec:\n  addresses: [\"{}\"]\n  ports:\n    http: {}\n",
            self.name,
            self.service,
            self.version,
            self.inbound.ip(),
            self.inbound.port()
        )
    }
}

/// All processes, and where they are.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) family: Family,
    pub(crate) instances: Vec<Instance>,
    /// The gRPC address of the control plane.
    pub(crate) api: SocketAddr,
    /// Its pages.
    pub(crate) pages: SocketAddr,
    client: Client,
    data: PathBuf,
    /// What is the sidecar in place of ours.
    program: Option<PathBuf>,
}

impl Mesh {
    /// Chooses ports; `directory` is for data and logs, `program` the sidecar if it is not ours.
    ///
    /// # Errors
    /// Where ports are missing.
    pub(crate) fn new(directory: &Path, client: Client, program: Option<PathBuf>) -> Result<Self, String> {
        let ports = &mut Ports::new();
        let (api, pages) = (ports.take()?, ports.take()?);
        let instances = [
            ("orders", "v1", "orders-1"),
            ("users", "v1", "users-1"),
            ("products", "v1", "products-v1-1"),
            ("products", "v1", "products-v1-2"),
            ("products", "v2", "products-v2-1"),
            ("products", "v2", "products-v2-2"),
        ];
        let instances = instances.map(|(service, version, name)| Instance::new(ports, service, version, name));
        Ok(Self {
            family: Family::new(directory.to_owned()),
            instances: instances.into_iter().collect::<Result<_, String>>()?,
            api,
            pages,
            client,
            data: directory.to_owned(),
            program,
        })
    }

    /// The instance of this name.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn instance(&self, name: &str) -> Result<&Instance, String> {
        self.instances.iter().find(|instance| instance.name == name).ok_or_else(|| format!("no instance {name}"))
    }

    /// Where customers call the shop.
    ///
    /// # Errors
    /// If there is no shop.
    pub(crate) fn shop(&self) -> Result<String, String> {
        Ok(format!("http://{}", self.instance("orders-1")?.inbound))
    }

    /// Starts the control plane, or starts it again with the data that it left.
    ///
    /// # Errors
    /// Where it does not become ready.
    pub(crate) async fn start_control(&mut self) -> Result<(), String> {
        let data = self.data.join("control");
        let (api, pages) = (self.api.to_string(), self.pages.to_string());
        let data = data.to_string_lossy();
        self.family.start(CONTROL, ["control", "serve", "--data", &data, "--listen", &api, "--http", &pages])?;
        self.until_ok(CONTROL, &format!("http://{}/readyz", self.pages)).await
    }

    /// Starts applications and sidecars, and waits until every sidecar serves.
    ///
    /// # Errors
    /// Where one does not.
    pub(crate) async fn start_instances(&mut self) -> Result<(), String> {
        for instance in self.instances.clone() {
            let listen = instance.application.to_string();
            let mut arguments = vec!["app", "--service", instance.service, "--version", instance.version];
            arguments.extend(["--instance", &instance.name, "--listen", &listen]);
            let mut arguments: Vec<String> = arguments.into_iter().map(ToOwned::to_owned).collect();
            for (service, address) in &instance.calls {
                arguments.extend([format!("--{service}"), format!("http://{address}")]);
            }
            self.family.start(&instance.name, &arguments)?;
            let bootstrap = self.bootstrap(&instance).await?;
            let mut sidecar: Vec<OsString> = match &self.program {
                None => vec!["proxy".into()],
                Some(program) => vec![family::EXEC.into(), program.into()],
            };
            // Envoy's processes share memory by this number; ours share nothing.
            let number = instance.admin.port().to_string();
            sidecar.extend(["-c".into(), bootstrap.into_os_string()]);
            sidecar.extend(["--concurrency", "1", "-l", "warning", "--base-id", &number].map(Into::into));
            self.family.start(&instance.sidecar(), &sidecar)?;
        }
        for instance in self.instances.clone() {
            self.until_ok(&instance.name, &format!("http://{}/healthz", instance.application)).await?;
            self.until_ok(&instance.sidecar(), &format!("http://{}/ready", instance.admin)).await?;
        }
        Ok(())
    }

    /// Writes the bootstrap of a sidecar to a file.
    async fn bootstrap(&self, instance: &Instance) -> Result<PathBuf, String> {
        let mut arguments: Vec<String> = [
            "control",
            "bootstrap",
            "--service",
            instance.service,
            "--inbound",
            &format!("{}={}", instance.inbound, instance.application),
            "--control",
            &self.api.to_string(),
            "--admin",
            &instance.admin.to_string(),
            "--id",
            &instance.name,
        ]
        .map(ToOwned::to_owned)
        .into();
        for (service, address) in &instance.calls {
            arguments.extend(["--to".to_owned(), format!("{service}={address}")]);
        }
        let bootstrap = self.family.run(&arguments, "").await?;
        let file = self.data.join(format!("{}.yaml", instance.name));
        std::fs::write(&file, bootstrap).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(file)
    }

    /// Applies objects, as `outrigger apply` does.
    ///
    /// # Errors
    /// What the control plane says.
    pub(crate) async fn apply(&self, yaml: &str) -> Result<(), String> {
        self.command(&["apply", "-f", "-"], yaml).await.map(drop)
    }

    /// The instances as objects.
    pub(crate) fn workloads(&self) -> String {
        self.instances.iter().map(Instance::workload).collect::<Vec<_>>().join("---\n")
    }

    /// Runs a command of the mesh's command line against the control plane.
    ///
    /// # Errors
    /// What it says.
    pub(crate) async fn command(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let api = self.api.to_string();
        let all = std::iter::once("control").chain(arguments.iter().copied()).chain(["--server", &api]);
        self.family.run(all, input).await
    }

    /// Makes an application do something wrong: JSON as of `POST /fault`.
    ///
    /// # Errors
    /// If it does not answer.
    pub(crate) async fn fault(&self, name: &str, fault: &str) -> Result<(), String> {
        let url = format!("http://{}/fault", self.instance(name)?.application);
        self.client.post(&url, fault).await.map(drop)
    }

    /// The sum of the counters of a sidecar whose names end so.
    ///
    /// # Errors
    /// If its admin interface does not answer.
    pub(crate) async fn counter(&self, name: &str, suffix: &str) -> Result<u64, String> {
        let url = format!("http://{}/stats?filter={suffix}", self.instance(name)?.admin);
        let text = self.client.get(&url).await?.body;
        Ok(sum(&String::from_utf8_lossy(&text), suffix))
    }

    /// Waits until a page answers with 200.
    async fn until_ok(&mut self, process: &str, url: &str) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = match self.client.get(url).await {
                Ok(answer) if answer.status.is_success() => return Ok(()),
                Ok(answer) => answer.status.to_string(),
                Err(error) => error,
            };
            self.family.check()?;
            if Instant::now() > deadline {
                return Err(format!("{process}: {url} is not ready after {PATIENCE:?}: {answer}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Adds up the values of the counters whose names end so: lines `name: value`.
fn sum(stats: &str, suffix: &str) -> u64 {
    let counters = stats.lines().filter_map(|line| line.split_once(": "));
    counters.filter(|(name, _)| name.ends_with(suffix)).filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_up_over_clusters() {
        let stats =
            "cluster.a.upstream_rq_retry: 3\ncluster.b.upstream_rq_retry: 4\ncluster.b.upstream_rq_retry_success: 9\n";
        assert_eq!(sum(stats, "upstream_rq_retry"), 7);
    }

    #[test]
    fn every_instance_has_its_own_ports() {
        let mesh = Mesh::new(Path::new("nowhere"), Client::new(), None).unwrap();
        let mut ports: Vec<u16> = mesh
            .instances
            .iter()
            .flat_map(|i| [i.application, i.inbound, i.admin].into_iter().chain(i.calls.iter().map(|(_, at)| *at)))
            .chain([mesh.api, mesh.pages])
            .map(|address| address.port())
            .collect();
        let all = ports.len();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!((all, ports.len()), (22, 22));
    }

    #[test]
    fn a_workload_is_yaml() {
        let mesh = Mesh::new(Path::new("nowhere"), Client::new(), None).unwrap();
        let yaml = mesh.workloads();
        assert_eq!(yaml.matches("kind: Workload\n").count(), 6);
        assert!(
            yaml.contains("metadata:\n  name: products-v2-1\n  labels:\n    app: products\n    version: v2\nspec:\n")
        );
    }
}
