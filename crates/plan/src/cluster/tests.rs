use super::*;

const EXAMPLE: &str = include_str!("../../../../examples/cluster.toml");

#[test]
fn the_example_file_is_read() {
    let cluster = Cluster::from_toml(EXAMPLE).unwrap();
    let names: Vec<&str> = cluster.devices.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["pi-kitchen", "pi-garage", "nuc"]);
    let nuc = &cluster.devices[2];
    assert_eq!(nuc.address.as_deref(), Some("tcp/10.0.0.9:7447"));
    assert_eq!((nuc.cores, nuc.speed), (Some(8), 0.6));
    assert_eq!(nuc.memory.map(ByteSize::bytes), Some(8 << 30));
    assert_eq!(cluster.devices[1].memory.map(ByteSize::bytes), Some(512_000_000));

    // Figures come from the closest description.
    let check = |from, to, bandwidth, delay| {
        let link = cluster.link(from, to);
        assert_eq!((link.bandwidth, link.delay), (bandwidth, delay));
    };
    check(End::Device(0), End::Device(2), 100e6 / 8.0, 1e-3);
    check(End::Device(1), End::Device(2), 20e6 / 8.0, 3e-3);
    check(End::Device(2), End::Device(1), 20e6 / 8.0, 1e-3);
    check(End::Dispatcher, End::Device(0), 1e9 / 8.0, 1e-3);

    let Resources { devices, links, .. } = cluster.resources();
    assert_eq!((devices[1].name.as_str(), devices[1].memory_bytes), ("pi-garage", Some(512_000_000)));
    assert_eq!(links.get(End::Device(1), End::Device(2)), cluster.link(End::Device(1), End::Device(2)));
}

#[test]
fn the_document_has_every_key() {
    const DOCUMENT: &str = include_str!("../../../../docs/cluster.md");
    let format = DOCUMENT.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let cluster = Cluster::from_toml(format).unwrap();
    let Cluster { dispatcher, dispatcher_power, devices, links, classes, media, link } = &cluster;
    assert!(dispatcher.bandwidth.and(dispatcher.delay).is_some() && dispatcher_power.idle_watts.is_some());
    let DeviceEntry { name: _, address, cores, speed: _, memory, bandwidth, power, unit_times_ms } =
        &devices[0];
    let limits = memory.is_some() && bandwidth.is_some() && power.busy_watts.is_some();
    assert!(address.is_some() && cores.is_some() && limits && unit_times_ms.is_some());
    let Connection { bandwidth, delay, frame_time, nanojoules_per_byte } = links;
    assert!(bandwidth.is_some() && delay.is_some() && frame_time.is_some() && nanojoules_per_byte.is_some());
    assert_eq!((classes.len(), link.len(), media[0].access_point), (1, 1, true));
}

#[test]
fn a_written_cluster_reads_back_as_the_same() {
    let bare = "version = 1\n[[device]]\nname = 'a \"quoted\" name'\nspeed = 0.1\n";
    let everything = "version = 1\n[dispatcher]\nidle_watts = 1.5\nframe_time = '50us'\n[[device]]\nname = 'a'\n\
        bandwidth = '1Gbit/s'\nidle_watts = 2\nbusy_watts = 5.25\nunit_times_ms = [1, 0.5]\n[[class]]\n\
        devices = ['a', 'dispatcher']\nnanojoules_per_byte = 78\n[[medium]]\nname = 'air'\ndevices = ['a']\n\
        access_point = true\nbandwidth = '50Mbit/s'\n";
    for text in [EXAMPLE, bare, everything] {
        let cluster = Cluster::from_toml(text).unwrap();
        let written = cluster.to_toml();
        assert_eq!(Cluster::from_toml(&written).unwrap(), cluster, "{written}");
    }
}

#[test]
fn links_are_free_unless_described() {
    let cluster = Cluster::from_toml("version = 1\n[[device]]\nname = 'a'\n[[device]]\nname = 'b'").unwrap();
    assert_eq!(cluster.link(End::Device(0), End::Device(1)), Link::FREE);
}

#[test]
fn every_figure_reaches_the_problem() {
    let cluster = Cluster::from_toml(
        "version = 1\n\
         [dispatcher]\nbandwidth = '1Gbit/s'\nidle_watts = 1\nbusy_watts = 4\n\
         [[device]]\nname = 'a'\nbandwidth = '8Mbit/s'\nidle_watts = 2\n\
         [[device]]\nname = 'b'\nunit_times_ms = [1, 2.5]\nbusy_watts = 3\n\
         [[device]]\nname = 'c'\n\
         [links]\ndelay = '1ms'\nframe_time = '50us'\n\
         [[class]]\ndevices = ['c', 'dispatcher']\nbandwidth = '80Mbit/s'\nnanojoules_per_byte = 5\n\
         [[class]]\ndevices = ['dispatcher', 'c', 'b']\nbandwidth = '40Mbit/s'\ndelay = '2ms'\n\
         [[medium]]\nname = 'air'\ndevices = ['a', 'b']\naccess_point = true\nbandwidth = '16Mbit/s'\n\
         [[link]]\nfrom = 'b'\nto = 'c'\nbandwidth = '24Mbit/s'\n",
    );
    let Resources { dispatcher, devices, links, media } = cluster.unwrap().resources();
    let host =
        |bandwidth, idle_watts, busy_watts| Host { bandwidth, idle_watts, busy_watts, ..Host::default() };
    assert_eq!(dispatcher, host(125e6, 1.0, 4.0));
    assert_eq!(devices[0].host, host(1e6, 2.0, 2.0));
    assert_eq!(devices[1].host, host(f64::INFINITY, 0.0, 3.0));
    assert_eq!(devices[1].unit_seconds.as_deref(), Some(&[1e-3, 2.5e-3][..]));
    let [a, b, c] = [0, 1, 2].map(End::Device);
    let link = |from, to| {
        let Link { bandwidth, delay, frame_seconds, joules_per_byte } = links.get(from, to);
        assert_eq!(frame_seconds, 50e-6);
        (bandwidth, delay, joules_per_byte)
    };
    // Twice through the air, once, a link of its own, the first class, then the second where the first says nothing.
    assert_eq!(link(a, b), (1e6, 1e-3, 0.0));
    assert_eq!(link(a, End::Dispatcher), (2e6, 1e-3, 0.0));
    assert_eq!(link(b, c), (3e6, 2e-3, 0.0));
    assert_eq!(link(c, End::Dispatcher), (10e6, 2e-3, 5e-9));
    // All but those between c and the dispatcher.
    assert_eq!((media[0].name.as_str(), media[0].links.len()), ("air", 12 - 2));
    assert!(!media[0].links.contains(&(c, End::Dispatcher)) && media[0].links.contains(&(b, c)));
}

#[test]
fn faults_of_classes_media_and_powers() {
    for (rest, expected) in [
        ("[[class]]\ndevices = ['a']", "line 7, column 11: `class.devices` must name at least 2, not 1"),
        ("[[class]]\ndevices = ['a', 'a']", "line 7, column 17: `class.devices` names `a` twice"),
        (
            "[[class]]\ndevices = 'a'",
            "line 7, column 11: `class.devices` must be a list in brackets, not a text",
        ),
        (
            "[[medium]]\nname = 'air'\ndevices = ['x']",
            "line 8, column 12: `medium.devices` names `x`, which is no device; there are dispatcher, a, b",
        ),
        (
            "[[medium]]\nname = 'air'\ndevices = ['a']\naccess_point = 1",
            "line 9, column 16: `medium.access_point` must be true or false, not a whole number",
        ),
        (
            "[dispatcher]\nidle_watts = 5\nbusy_watts = 4",
            "line 8, column 14: `dispatcher.busy_watts` must be at least `idle_watts`, which is 5, not 4",
        ),
        (
            "[links]\nnanojoules_per_byte = -1",
            "line 7, column 23: `links.nanojoules_per_byte` must be a finite number, at least 0, not -1",
        ),
    ] {
        check(rest, expected);
    }
}

/// Two devices, then `rest`, which begins at line 6.
fn check(rest: &str, expected: &str) {
    let text = format!("version = 1\n[[device]]\nname = 'a'\n[[device]]\nname = 'b'\n{rest}");
    check_file(&text, expected);
}

fn check_file(text: &str, expected: &str) {
    match Cluster::from_toml(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(error) => {
            assert_eq!(error.to_string(), expected, "\n{text}");
            assert!(error.message.contains(&error.key));
        }
    }
}

#[test]
fn faults_of_the_file_as_a_whole() {
    for (text, expected) in [
        ("", "line 1, column 1: `version` is missing"),
        ("version = 2", "line 1, column 11: `version` must be 1, not 2"),
        ("version = '1'", "line 1, column 11: `version` must be a whole number, not a text"),
        ("version = 1", "line 1, column 1: `device` is missing"),
        (
            "version = 1\ndevice = 3",
            "line 2, column 10: `device` must be written [[device]], not a whole number",
        ),
        (
            "version = 1\n[device]\nname = 'a'",
            "line 2, column 1: `device` must be written [[device]], not a table",
        ),
        (
            "version = 1\ndevices = 3",
            "line 2, column 1: `devices` is no known key; a cluster file may have version, dispatcher, device, \
             links, class, medium, link",
        ),
        (
            "version = 1\ndevice = [3]",
            "line 2, column 11: `device` must be a table, written [[device]], not a whole number",
        ),
    ] {
        check_file(text, expected);
    }
    let error = Cluster::from_toml("version = 1\n[[device]\n").unwrap_err();
    assert_eq!(error.line, 2);
    assert!(error.message.starts_with("this is no TOML: "), "{error}");
}

#[test]
fn faults_of_a_device() {
    for (rest, expected) in [
        (
            "sped = 2.0",
            "line 6, column 1: `device.sped` is no known key; [[device]] may have name, address, cores, speed, memory, \
             bandwidth, idle_watts, busy_watts, unit_times_ms",
        ),
        ("[[device]]\nspeed = 1", "line 6, column 1: `device.name` is missing"),
        ("[[device]]\nname = 'a'", "line 7, column 8: `device.name` `a` is used twice"),
        ("[[device]]\nname = ''", "line 7, column 8: `device.name` must not be empty"),
        (
            "[[device]]\nname = 'dispatcher'",
            "line 7, column 8: `device.name` must not be `dispatcher`: that name stands for the dispatcher in a link",
        ),
        (
            "[[device]]\nname = 7",
            "line 7, column 8: `device.name` must be a text in quotes, not a whole number",
        ),
        ("cores = 0", "line 6, column 9: `device.cores` must be at least 1, not 0"),
        (
            "cores = 1.5",
            "line 6, column 9: `device.cores` must be a whole number, not a number with a fraction",
        ),
        ("speed = 0", "line 6, column 9: `device.speed` must be a finite number above 0, not 0"),
        ("speed = -1.5", "line 6, column 9: `device.speed` must be a finite number above 0, not -1.5"),
        ("speed = nan", "line 6, column 9: `device.speed` must be a finite number above 0, not NaN"),
        ("speed = inf", "line 6, column 9: `device.speed` must be a finite number above 0, not inf"),
        ("speed = 'fast'", "line 6, column 9: `device.speed` must be a number, not a text"),
        (
            "memory = 512",
            "line 6, column 10: `device.memory` must be a text with a unit, such as \"512MB\", not a whole number",
        ),
        (
            "memory = '-2GB'",
            "line 6, column 10: `device.memory` cannot be read: `-2GB` is no size: write a number above 0 and one \
             of TiB, TB, GiB, GB, MiB, MB, KiB, kB, B, such as 512MB",
        ),
        (
            "address = '10.0.0.7'",
            "line 6, column 11: `device.address` must be an endpoint such as \"tcp/10.0.0.7:7447\", not \"10.0.0.7\"",
        ),
        (
            "address = 'tcp/h:1'\n[[device]]\nname = 'c'\naddress = 'tcp/h:1'",
            "line 9, column 11: `device.address` `tcp/h:1` is the address of `b` already",
        ),
    ] {
        check(rest, expected);
    }
}

#[test]
fn faults_of_links() {
    for (rest, expected) in [
        ("[[link]]\nfrom = 'a'", "line 6, column 1: `link.to` is missing"),
        (
            "[[link]]\nfrom = 'a'\nto = 'x'",
            "line 8, column 6: `link.to` names `x`, which is no device; there are dispatcher, a, b",
        ),
        ("[[link]]\nfrom = 'a'\nto = 'a'", "line 8, column 6: `link.to` must differ from `from`"),
        (
            "[[link]]\nfrom = 'a'\nto = 'b'\n[[link]]\nfrom = 'a'\nto = 'b'",
            "line 11, column 6: `link.to` closes a link that is described twice",
        ),
        (
            "[[link]]\nfrom = 'a'\nto = 'b'\nspeed = 3",
            "line 9, column 1: `link.speed` is no known key; [[link]] may have from, to, bandwidth, delay, frame_time, \
             nanojoules_per_byte",
        ),
        (
            "[links]\nbandwidth = '0Mbit/s'",
            "line 7, column 13: `links.bandwidth` cannot be read: `0Mbit/s` is no bandwidth: write a number above 0 \
             and one of Gbit/s, Mbit/s, kbit/s, bit/s, such as 100Mbit/s",
        ),
        (
            "[dispatcher]\ndelay = 3",
            "line 7, column 9: `dispatcher.delay` must be a text with a unit, such as \"1ms\", not a whole number",
        ),
        (
            "[dispatcher]\nname = 'd'",
            "line 7, column 1: `dispatcher.name` is no known key; [dispatcher] may have bandwidth, delay, frame_time, \
             nanojoules_per_byte, idle_watts, busy_watts",
        ),
        (
            "links = 3",
            "line 6, column 1: `device.links` is no known key; [[device]] may have name, address, cores, speed, memory, \
             bandwidth, idle_watts, busy_watts, unit_times_ms",
        ),
    ] {
        check(rest, expected);
    }
}

#[test]
fn what_is_said_of_devices_that_are_left_out_goes_with_them() {
    let text = "version = 1\n\
        [[device]]\nname = 'a'\n[[device]]\nname = 'b'\n[[device]]\nname = 'c'\n\
        [[class]]\ndevices = ['a', 'c', 'dispatcher']\nbandwidth = '1Gbit/s'\n\
        [[class]]\ndevices = ['a', 'b']\nbandwidth = '1Mbit/s'\n\
        [[medium]]\nname = 'm'\ndevices = ['a']\nbandwidth = '2Mbit/s'\n\
        [[medium]]\nname = 'n'\ndevices = ['a', 'b']\nbandwidth = '3Mbit/s'\n\
        [[link]]\nfrom = 'c'\nto = 'b'\ndelay = '1ms'\n\
        [[link]]\nfrom = 'a'\nto = 'b'\ndelay = '2ms'\n";
    let mut cluster = Cluster::from_toml(text).unwrap();
    let whole = cluster.clone();
    cluster.retain(|_| true);
    assert_eq!(cluster, whole);
    cluster.retain(|device| device.name != "a");
    let left = "version = 1\n\
        [[device]]\nname = 'b'\n[[device]]\nname = 'c'\n\
        [[class]]\ndevices = ['c', 'dispatcher']\nbandwidth = '1Gbit/s'\n\
        [[medium]]\nname = 'n'\ndevices = ['b']\nbandwidth = '3Mbit/s'\n\
        [[link]]\nfrom = 'c'\nto = 'b'\ndelay = '1ms'\n";
    assert_eq!(cluster, Cluster::from_toml(left).unwrap());
}
