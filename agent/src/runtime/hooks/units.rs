//! Starts, stops and watches systemd units over D-Bus (`org.freedesktop.systemd1`, see
//! org.freedesktop.systemd1(5)).
//!
//! Knows nothing of roles. Every call has a limit, and one that cannot reach D-Bus says so: whoever asks
//! decides what that means. A job is done when systemd says `JobRemoved` for it, not when it was queued.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use zbus::{ObjectPath, OwnedObjectPath};

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: ObjectPath<'_>, unit: &str, result: &str) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn load_state(&self) -> zbus::Result<String>;
}

/// systemd's own mode for a job that takes the place of a conflicting one.
const REPLACE: &str = "replace";

/// What a member shows of a unit that follows the role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// The `service` block's name.
    pub name: String,
    /// The unit.
    pub unit: String,
    /// systemd's `ActiveState` as last heard, or `unknown`.
    pub state: String,
    /// Whether it should run here now.
    pub wanted: bool,
    /// What went wrong with it last, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
}

/// The states of all units, for whoever shows them. Held for the time of a copy only.
#[derive(Clone, Debug, Default)]
pub struct UnitStates(Arc<Mutex<Vec<UnitStatus>>>);

impl UnitStates {
    /// Nothing is known yet of these: (name, unit).
    pub fn new(units: impl Iterator<Item = (String, String)>) -> UnitStates {
        let unknown = |(name, unit)| UnitStatus {
            name,
            unit,
            state: "unknown".to_owned(),
            wanted: false,
            problem: None,
        };
        UnitStates(Arc::new(Mutex::new(units.map(unknown).collect())))
    }

    /// A copy.
    pub fn read(&self) -> Vec<UnitStatus> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Changes what is shown of a unit.
    pub fn set(&self, unit: &str, change: impl FnOnce(&mut UnitStatus)) {
        let mut all = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(shown) = all.iter_mut().find(|shown| shown.unit == unit) {
            change(shown);
        }
    }
}

/// Why a unit did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// Nobody can be asked.
    #[error(
        "D-Bus cannot be reached ({0}): is systemd running, and may the agent use /run/dbus/system_bus_socket?"
    )]
    Unreachable(zbus::Error),
    /// systemd refuses.
    #[error("systemd refuses: {0}; see: systemctl status {1}")]
    Refused(zbus::Error, String),
    /// The job ended otherwise than it should.
    #[error("systemd says {result:?}; see: systemctl status {unit}")]
    NotDone {
        /// systemd's word: `failed`, `timeout`, `dependency`, `canceled`, ...
        result: String,
        /// Of which unit.
        unit: String,
    },
    /// The job took longer than it may.
    #[error("not within {} s; see: systemctl status {unit}", limit.as_secs_f64())]
    TooSlow {
        /// Its limit.
        limit: Duration,
        /// Of which unit.
        unit: String,
    },
}

/// The way to systemd.
pub struct Units {
    /// `None`: the system's bus.
    address: Option<String>,
    connection: Option<zbus::Connection>,
    watches: BTreeMap<String, JoinHandle<()>>,
}

impl Units {
    /// Connects when it is first needed. `address` is a bus in D-Bus's notation, or the system's.
    pub fn new(address: Option<String>) -> Units {
        Units { address, connection: None, watches: BTreeMap::new() }
    }

    /// Starts `unit` and waits until systemd has done it.
    pub async fn start(&mut self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        self.within(unit, limit, true).await
    }

    /// Stops `unit` and waits until systemd has done it. One that does not run is stopped already.
    pub async fn stop(&mut self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        self.unwatch(unit);
        self.within(unit, limit, false).await
    }

    /// systemd's `ActiveState`.
    pub async fn state(&mut self, unit: &str, limit: Duration) -> Result<String, UnitError> {
        let asked = async {
            let connection = self.connection().await?;
            let unit = unit_proxy(&connection, unit).await?;
            unit.active_state().await
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok(state)) => Ok(state),
            Ok(Err(error)) => Err(self.judge(error, unit)),
            Err(_) => Err(UnitError::TooSlow { limit, unit: unit.to_owned() }),
        }
    }

    /// Tells `told` whenever the unit's `ActiveState` changes, until it is unwatched or stopped.
    pub async fn watch(&mut self, unit: &str, limit: Duration, told: impl Fn(String) + Send + 'static) {
        self.unwatch(unit);
        let Ok(Ok(connection)) = tokio::time::timeout(limit, self.connection()).await else { return };
        let name = unit.to_owned();
        let watch = async move {
            let Ok(proxy) = unit_proxy(&connection, &name).await else { return };
            let mut changes = proxy.receive_active_state_changed().await;
            while let Some(change) = changes.next().await {
                if let Ok(state) = change.get().await {
                    told(state);
                }
            }
            told("unknown".to_owned());
        };
        self.watches.insert(unit.to_owned(), tokio::spawn(watch));
    }

    /// Ends a watch.
    pub fn unwatch(&mut self, unit: &str) {
        if let Some(watch) = self.watches.remove(unit) {
            watch.abort();
        }
    }

    async fn within(&mut self, unit: &str, limit: Duration, start: bool) -> Result<(), UnitError> {
        match tokio::time::timeout(limit, self.job(unit, start)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(UnitError::TooSlow { limit, unit: unit.to_owned() }),
        }
    }

    async fn job(&mut self, unit: &str, start: bool) -> Result<(), UnitError> {
        let result = match self.ordered(unit, start).await {
            Ok(result) => result,
            Err(error) => return Err(self.judge(error, unit)),
        };
        match result.as_str() {
            "done" => Ok(()),
            _ => Err(UnitError::NotDone { result, unit: unit.to_owned() }),
        }
    }

    async fn ordered(&mut self, unit: &str, start: bool) -> zbus::Result<String> {
        let connection = self.connection().await?;
        let manager = ManagerProxy::new(&connection).await?;
        // Before the order: a job may be over before the answer to it is read.
        let mut removed = manager.receive_job_removed().await?;
        let job = match start {
            true => manager.start_unit(unit, REPLACE).await?,
            false => {
                let proxy = unit_proxy(&connection, unit).await?;
                // Stopping what is not there is an error to systemd.
                if matches!(proxy.load_state().await?.as_str(), "not-found" | "masked")
                    || proxy.active_state().await? == "inactive"
                {
                    return Ok("done".to_owned());
                }
                manager.stop_unit(unit, REPLACE).await?
            }
        };
        while let Some(signal) = removed.next().await {
            let of = signal.args()?;
            if of.job().as_str() == job.as_str() {
                return Ok(of.result().to_string());
            }
        }
        Err(zbus::Error::Failure("the connection to D-Bus ended".to_owned()))
    }

    async fn connection(&mut self) -> zbus::Result<zbus::Connection> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let builder = match &self.address {
            Some(address) => zbus::connection::Builder::address(address.as_str()),
            None => zbus::connection::Builder::system(),
        };
        let connection = builder.build().await?;
        // Without it systemd sends no signals about jobs and units.
        ManagerProxy::new(&connection).await?.subscribe().await?;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// A refusal comes from systemd; anything else means that the way there is broken, and a new one is
    /// made next time.
    fn judge(&mut self, error: zbus::Error, unit: &str) -> UnitError {
        use zbus::fdo::Error as Bus;
        let refused = match &error {
            zbus::Error::MethodError(..) => true,
            zbus::Error::FDO(error) => !matches!(
                **error,
                Bus::ServiceUnknown(_)
                    | Bus::NameHasNoOwner(_)
                    | Bus::NoReply(_)
                    | Bus::Disconnected(_)
                    | Bus::NoServer(_)
                    | Bus::ZBus(_)
            ),
            _ => false,
        };
        if refused {
            return UnitError::Refused(error, unit.to_owned());
        }
        self.connection = None;
        UnitError::Unreachable(error)
    }
}

async fn unit_proxy(connection: &zbus::Connection, unit: &str) -> zbus::Result<UnitProxy<'static>> {
    let path = ManagerProxy::new(connection).await?.load_unit(unit).await?;
    UnitProxy::builder(connection).path(path).build().await
}
