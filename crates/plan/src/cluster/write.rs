//! From a [`Cluster`] to the text of a `cluster.toml`.

use serde::Serialize;

use super::{Cluster, Connection, DISPATCHER, Power, VERSION};
use crate::End;

#[derive(Serialize)]
struct File<'a> {
    version: i64,
    dispatcher: DispatcherTable,
    device: Vec<DeviceTable<'a>>,
    links: Figures,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    class: Vec<ClassTable<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    medium: Vec<MediumTable<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    link: Vec<LinkTable<'a>>,
}

#[derive(Serialize)]
struct DispatcherTable {
    #[serde(flatten)]
    figures: Figures,
    #[serde(flatten)]
    power: Watts,
}

#[derive(Serialize)]
struct ClassTable<'a> {
    devices: Vec<&'a str>,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Serialize)]
struct MediumTable<'a> {
    name: &'a str,
    devices: Vec<&'a str>,
    access_point: bool,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Serialize)]
struct Watts {
    idle_watts: Option<f64>,
    busy_watts: Option<f64>,
}

/// Nothing is written for what is not known.
#[derive(Serialize)]
struct Figures {
    bandwidth: Option<String>,
    delay: Option<String>,
    frame_time: Option<String>,
    nanojoules_per_byte: Option<f64>,
}

#[derive(Serialize)]
struct DeviceTable<'a> {
    name: &'a str,
    address: Option<&'a str>,
    cores: Option<usize>,
    speed: f64,
    memory: Option<String>,
    bandwidth: Option<String>,
    #[serde(flatten)]
    power: Watts,
    unit_times_ms: Option<&'a [f64]>,
}

#[derive(Serialize)]
struct LinkTable<'a> {
    from: &'a str,
    to: &'a str,
    #[serde(flatten)]
    figures: Figures,
}

impl Figures {
    fn of(connection: Connection) -> Figures {
        Figures {
            bandwidth: connection.bandwidth.map(|b| b.to_string()),
            delay: connection.delay.map(|d| d.to_string()),
            frame_time: connection.frame_time.map(|t| t.to_string()),
            nanojoules_per_byte: connection.nanojoules_per_byte,
        }
    }
}

impl Watts {
    fn of(power: Power) -> Watts {
        Watts { idle_watts: power.idle_watts, busy_watts: power.busy_watts }
    }
}

pub(super) fn cluster(cluster: &Cluster) -> String {
    let name = |end| match end {
        End::Dispatcher => DISPATCHER,
        End::Device(device) => cluster.devices[device].name.as_str(),
    };
    let device = cluster.devices.iter().map(|d| DeviceTable {
        name: &d.name,
        address: d.address.as_deref(),
        cores: d.cores,
        speed: d.speed,
        memory: d.memory.map(|m| m.to_string()),
        bandwidth: d.bandwidth.map(|b| b.to_string()),
        power: Watts::of(d.power),
        unit_times_ms: d.unit_times_ms.as_deref(),
    });
    let names = |ends: &[End]| ends.iter().map(|&end| name(end)).collect();
    let class = cluster
        .classes
        .iter()
        .map(|class| ClassTable { devices: names(&class.members), figures: Figures::of(class.connection) });
    let medium = cluster.media.iter().map(|medium| MediumTable {
        name: &medium.name,
        devices: names(&medium.members),
        access_point: medium.access_point,
        figures: Figures::of(medium.connection),
    });
    let link = cluster.link.iter().map(|l| LinkTable {
        from: name(l.from),
        to: name(l.to),
        figures: Figures::of(l.connection),
    });
    let file = File {
        version: VERSION,
        dispatcher: DispatcherTable {
            figures: Figures::of(cluster.dispatcher),
            power: Watts::of(cluster.dispatcher_power),
        },
        device: device.collect(),
        links: Figures::of(cluster.links),
        class: class.collect(),
        medium: medium.collect(),
        link: link.collect(),
    };
    toml::to_string(&file).expect("tables of texts and numbers are always TOML")
}
