//! From the text of a `cluster.toml` to a checked [`Cluster`].

use super::{
    ClassEntry, Cluster, Connection, DISPATCHER, DeviceEntry, LinkEntry, MediumEntry, Power, VERSION,
};
use crate::End;
use crate::document::{Document, DocumentError, Field, Table};
use crate::names::listed;

const TOP_KEYS: [&str; 7] = ["version", "dispatcher", "device", "links", "class", "medium", "link"];
const DEVICE_KEYS: [&str; 9] =
    ["name", "address", "cores", "speed", "memory", "bandwidth", "idle_watts", "busy_watts", "unit_times_ms"];
const LINK_KEYS: [&str; 6] = ["from", "to", "bandwidth", "delay", "frame_time", "nanojoules_per_byte"];
const CONNECTION_KEYS: [&str; 4] = ["bandwidth", "delay", "frame_time", "nanojoules_per_byte"];
const DISPATCHER_KEYS: [&str; 6] =
    ["bandwidth", "delay", "frame_time", "nanojoules_per_byte", "idle_watts", "busy_watts"];
const CLASS_KEYS: [&str; 5] = ["devices", "bandwidth", "delay", "frame_time", "nanojoules_per_byte"];
const MEDIUM_KEYS: [&str; 7] =
    ["name", "devices", "access_point", "bandwidth", "delay", "frame_time", "nanojoules_per_byte"];

pub(super) fn cluster(text: &str) -> Result<Cluster, DocumentError> {
    let document = Document::parse(text)?;
    let top = document.top("a cluster file", &TOP_KEYS)?;
    version(&top)?;
    let devices = devices(&top)?;
    let dispatcher = top.table("dispatcher", "[dispatcher]", &DISPATCHER_KEYS)?;
    let all_links = top.table("links", "[links]", &CONNECTION_KEYS)?;
    Ok(Cluster {
        dispatcher: dispatcher.as_ref().map(connection).transpose()?.unwrap_or_default(),
        dispatcher_power: dispatcher.as_ref().map(power).transpose()?.unwrap_or_default(),
        links: all_links.as_ref().map(connection).transpose()?.unwrap_or_default(),
        classes: classes(&top, &devices)?,
        media: media(&top, &devices)?,
        link: links(&top, &devices)?,
        devices,
    })
}

fn version(top: &Table<'_>) -> Result<(), DocumentError> {
    let field = top.require("version")?;
    match field.integer()? {
        VERSION => Ok(()),
        other => Err(field.fault(&format!("must be {VERSION}, not {other}"))),
    }
}

fn devices(top: &Table<'_>) -> Result<Vec<DeviceEntry>, DocumentError> {
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

fn device(table: &Table<'_>) -> Result<DeviceEntry, DocumentError> {
    Ok(DeviceEntry {
        name: device_name(&table.require("name")?)?,
        address: table.get("address").map(|field| address(&field)).transpose()?,
        cores: table.get("cores").map(|field| cores(&field)).transpose()?,
        speed: table.get("speed").map_or(Ok(1.0), |field| speed(&field))?,
        memory: table.get("memory").map(|field| field.parse("512MB")).transpose()?,
        bandwidth: table.get("bandwidth").map(|field| field.parse("100Mbit/s")).transpose()?,
        power: power(table)?,
        unit_times_ms: table.get("unit_times_ms").map(|field| times(&field)).transpose()?,
    })
}

fn device_name(field: &Field<'_>) -> Result<String, DocumentError> {
    match field.string()? {
        "" => Err(field.fault("must not be empty")),
        DISPATCHER => {
            Err(field.fault("must not be `dispatcher`: that name stands for the dispatcher in a link"))
        }
        name => Ok(name.to_owned()),
    }
}

fn address(field: &Field<'_>) -> Result<String, DocumentError> {
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

fn cores(field: &Field<'_>) -> Result<usize, DocumentError> {
    let cores = field.integer()?;
    match usize::try_from(cores) {
        Ok(cores) if cores > 0 => Ok(cores),
        _ => Err(field.fault(&format!("must be at least 1, not {cores}"))),
    }
}

fn speed(field: &Field<'_>) -> Result<f64, DocumentError> {
    let speed = field.number()?;
    if speed.is_finite() && speed > 0.0 {
        return Ok(speed);
    }
    Err(field.fault(&format!("must be a finite number above 0, not {speed}")))
}

fn power(table: &Table<'_>) -> Result<Power, DocumentError> {
    let watts = |key| table.get(key).map(|field| not_negative(&field)).transpose();
    let power = Power { idle_watts: watts("idle_watts")?, busy_watts: watts("busy_watts")? };
    match (power.idle_watts, power.busy_watts, table.get("busy_watts")) {
        (Some(idle), Some(busy), Some(field)) if busy < idle => {
            Err(field.fault(&format!("must be at least `idle_watts`, which is {idle}, not {busy}")))
        }
        _ => Ok(power),
    }
}

fn times(field: &Field<'_>) -> Result<Vec<f64>, DocumentError> {
    field.items()?.iter().map(not_negative).collect()
}

fn not_negative(field: &Field<'_>) -> Result<f64, DocumentError> {
    let number = field.number()?;
    if number.is_finite() && number >= 0.0 {
        return Ok(number);
    }
    Err(field.fault(&format!("must be a finite number, at least 0, not {number}")))
}

fn connection(table: &Table<'_>) -> Result<Connection, DocumentError> {
    Ok(Connection {
        bandwidth: table.get("bandwidth").map(|field| field.parse("100Mbit/s")).transpose()?,
        delay: table.get("delay").map(|field| field.parse("1ms")).transpose()?,
        frame_time: table.get("frame_time").map(|field| field.parse("50us")).transpose()?,
        nanojoules_per_byte: table
            .get("nanojoules_per_byte")
            .map(|field| not_negative(&field))
            .transpose()?,
    })
}

fn classes(top: &Table<'_>, devices: &[DeviceEntry]) -> Result<Vec<ClassEntry>, DocumentError> {
    let class = |table: &Table<'_>| {
        let members = members(table, devices, 2)?;
        Ok(ClassEntry { members, connection: connection(table)? })
    };
    top.tables("class", "[[class]]", &CLASS_KEYS)?.iter().map(class).collect()
}

fn media(top: &Table<'_>, devices: &[DeviceEntry]) -> Result<Vec<MediumEntry>, DocumentError> {
    let mut media: Vec<MediumEntry> = Vec::new();
    for table in top.tables("medium", "[[medium]]", &MEDIUM_KEYS)? {
        let field = table.require("name")?;
        let name = field.string()?.to_owned();
        if media.iter().any(|other| other.name == name) {
            return Err(field.fault(&format!("`{name}` is used twice")));
        }
        media.push(MediumEntry {
            name,
            members: members(&table, devices, 1)?,
            access_point: table.get("access_point").map_or(Ok(false), |field| field.boolean())?,
            connection: connection(&table)?,
        });
    }
    Ok(media)
}

/// The ends that a table is about, each once.
fn members(table: &Table<'_>, devices: &[DeviceEntry], least: usize) -> Result<Vec<End>, DocumentError> {
    let field = table.require("devices")?;
    let mut members = Vec::new();
    for item in field.items()? {
        let end = end(&item, devices)?;
        if members.contains(&end) {
            return Err(item.fault(&format!("names `{}` twice", item.string()?)));
        }
        members.push(end);
    }
    match members.len() < least {
        true => Err(field.fault(&format!("must name at least {least}, not {}", members.len()))),
        false => Ok(members),
    }
}

fn links(top: &Table<'_>, devices: &[DeviceEntry]) -> Result<Vec<LinkEntry>, DocumentError> {
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

fn end(field: &Field<'_>, devices: &[DeviceEntry]) -> Result<End, DocumentError> {
    let name = field.string()?;
    if name == DISPATCHER {
        return Ok(End::Dispatcher);
    }
    let device = devices.iter().position(|device| device.name == name);
    device.map(End::Device).ok_or_else(|| {
        let known = listed(devices.iter().map(|device| &device.name));
        field.fault(&format!("names `{name}`, which is no device; there are {DISPATCHER}, {known}"))
    })
}
