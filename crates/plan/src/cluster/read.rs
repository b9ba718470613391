//! From the text of a `cluster.toml` to a checked [`Cluster`].

use toml::de::DeTable;

use super::table::{Field, Table, error};
use super::{Cluster, ClusterError, Connection, DISPATCHER, DeviceEntry, LinkEntry, VERSION};
use crate::End;

const TOP_KEYS: [&str; 5] = ["version", "dispatcher", "device", "links", "link"];
const DEVICE_KEYS: [&str; 5] = ["name", "address", "cores", "speed", "memory"];
const LINK_KEYS: [&str; 4] = ["from", "to", "bandwidth", "delay"];
const CONNECTION_KEYS: [&str; 2] = ["bandwidth", "delay"];

pub(super) fn cluster(text: &str) -> Result<Cluster, ClusterError> {
    let document = DeTable::parse(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        error(text, at, String::new(), format!("this is no TOML: {}", e.message()))
    })?;
    let top = Table::new(text, "", &TOP_KEYS, &document)?;
    version(&top)?;
    let devices = devices(&top)?;
    Ok(Cluster {
        dispatcher: section(&top, "dispatcher", "[dispatcher]")?,
        links: section(&top, "links", "[links]")?,
        link: links(&top, &devices)?,
        devices,
    })
}

fn version(top: &Table<'_>) -> Result<(), ClusterError> {
    let field = top.require("version")?;
    match field.integer()? {
        VERSION => Ok(()),
        other => Err(field.fault(&format!("must be {VERSION}, not {other}"))),
    }
}

fn devices(top: &Table<'_>) -> Result<Vec<DeviceEntry>, ClusterError> {
    let mut devices: Vec<DeviceEntry> = Vec::new();
    for table in top.tables("device", "[[device]]", &DEVICE_KEYS)? {
        let device = device(&table)?;
        if devices.iter().any(|other| other.name == device.name) {
            return Err(table.require("name")?.fault(&format!("`{}` is used twice", device.name)));
        }
        if let (Some(address), Some(field)) = (&device.address, table.get("address"))
            && let Some(other) = devices.iter().find(|other| other.address.as_ref() == Some(address))
        {
            return Err(field.fault(&format!("`{address}` is the address of `{}` already", other.name)));
        }
        devices.push(device);
    }
    if devices.is_empty() {
        top.require("device")?;
    }
    Ok(devices)
}

fn device(table: &Table<'_>) -> Result<DeviceEntry, ClusterError> {
    Ok(DeviceEntry {
        name: device_name(&table.require("name")?)?,
        address: table.get("address").map(|field| address(&field)).transpose()?,
        cores: table.get("cores").map(|field| cores(&field)).transpose()?,
        speed: table.get("speed").map_or(Ok(1.0), |field| speed(&field))?,
        memory: table.get("memory").map(|field| field.parse("512MB")).transpose()?,
    })
}

fn device_name(field: &Field<'_>) -> Result<String, ClusterError> {
    match field.string()? {
        "" => Err(field.fault("must not be empty")),
        DISPATCHER => {
            Err(field.fault("must not be `dispatcher`: that name stands for the dispatcher in a link"))
        }
        name => Ok(name.to_owned()),
    }
}

fn address(field: &Field<'_>) -> Result<String, ClusterError> {
    let address = field.string()?;
    let complete = address.split_once('/').is_some_and(|(protocol, place)| {
        !protocol.is_empty()
            && place.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && !port.is_empty())
    });
    if !complete {
        return Err(
            field.fault(&format!("must be an endpoint such as \"tcp/10.0.0.7:7447\", not \"{address}\""))
        );
    }
    Ok(address.to_owned())
}

fn cores(field: &Field<'_>) -> Result<usize, ClusterError> {
    let cores = field.integer()?;
    match usize::try_from(cores) {
        Ok(cores) if cores > 0 => Ok(cores),
        _ => Err(field.fault(&format!("must be at least 1, not {cores}"))),
    }
}

fn speed(field: &Field<'_>) -> Result<f64, ClusterError> {
    let speed = field.number()?;
    if speed.is_finite() && speed > 0.0 {
        return Ok(speed);
    }
    Err(field.fault(&format!("must be a finite number above 0, not {speed}")))
}

fn section(top: &Table<'_>, key: &str, header: &'static str) -> Result<Connection, ClusterError> {
    match top.table(key, header, &CONNECTION_KEYS)? {
        Some(table) => connection(&table),
        None => Ok(Connection::default()),
    }
}

fn connection(table: &Table<'_>) -> Result<Connection, ClusterError> {
    Ok(Connection {
        bandwidth: table.get("bandwidth").map(|field| field.parse("100Mbit/s")).transpose()?,
        delay: table.get("delay").map(|field| field.parse("1ms")).transpose()?,
    })
}

fn links(top: &Table<'_>, devices: &[DeviceEntry]) -> Result<Vec<LinkEntry>, ClusterError> {
    let mut links: Vec<LinkEntry> = Vec::new();
    for table in top.tables("link", "[[link]]", &LINK_KEYS)? {
        let from = end(&table.require("from")?, devices)?;
        let field = table.require("to")?;
        let to = end(&field, devices)?;
        if from == to {
            return Err(field.fault("must differ from `from`"));
        }
        if links.iter().any(|other| (other.from, other.to) == (from, to)) {
            return Err(field.fault("closes a link that is described twice"));
        }
        links.push(LinkEntry { from, to, connection: connection(&table)? });
    }
    Ok(links)
}

fn end(field: &Field<'_>, devices: &[DeviceEntry]) -> Result<End, ClusterError> {
    let name = field.string()?;
    if name == DISPATCHER {
        return Ok(End::Dispatcher);
    }
    let device = devices.iter().position(|device| device.name == name);
    device.map(End::Device).ok_or_else(|| {
        let known: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        field.fault(&format!(
            "names `{name}`, which is no device; there are {DISPATCHER}, {}",
            known.join(", ")
        ))
    })
}
