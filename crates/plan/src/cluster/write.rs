//! From a [`Cluster`] to the text of a `cluster.toml`.

use serde::Serialize;

use super::{Cluster, Connection, DISPATCHER, VERSION};
use crate::End;

#[derive(Serialize)]
struct File<'a> {
    version: i64,
    #[serde(skip_serializing_if = "Figures::is_empty")]
    dispatcher: Figures,
    device: Vec<DeviceTable<'a>>,
    #[serde(skip_serializing_if = "Figures::is_empty")]
    links: Figures,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    link: Vec<LinkTable<'a>>,
}

/// Nothing is written for what is not known.
#[derive(Serialize)]
struct Figures {
    bandwidth: Option<String>,
    delay: Option<String>,
}

#[derive(Serialize)]
struct DeviceTable<'a> {
    name: &'a str,
    address: Option<&'a str>,
    cores: Option<usize>,
    speed: f64,
    memory: Option<String>,
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
        }
    }

    fn is_empty(&self) -> bool {
        self.bandwidth.is_none() && self.delay.is_none()
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
    });
    let link = cluster.link.iter().map(|l| LinkTable {
        from: name(l.from),
        to: name(l.to),
        figures: Figures::of(l.connection),
    });
    let file = File {
        version: VERSION,
        dispatcher: Figures::of(cluster.dispatcher),
        device: device.collect(),
        links: Figures::of(cluster.links),
        link: link.collect(),
    };
    toml::to_string(&file).expect("tables of texts and numbers are always TOML")
}
