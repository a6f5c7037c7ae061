use roxmltree::Document;

use super::*;

const ALL: [(&str, &str); 5] = [
    ("debian", include_str!("../../tests/xml/debian-uefi-tpm.xml")),
    ("many sources", include_str!("../../tests/xml/many-sources.xml")),
    ("openstack", include_str!("../../tests/xml/openstack.xml")),
    ("running", include_str!("../../tests/xml/running.xml")),
    ("windows", include_str!("../../tests/xml/windows11.xml")),
];

fn isolated(text: &str, isolation: &Isolation) -> String {
    Machine::isolate(text, isolation).expect("a machine")
}

fn elements<'a>(document: &'a Document<'_>, name: &str) -> Vec<Node<'a, 'a>> {
    document.descendants().filter(|node| node.tag_name().name() == name).collect()
}

#[test]
fn nothing_of_the_host_is_left() {
    for (name, text) in ALL {
        let console = Some("/run/s/console".to_owned());
        let xml = isolated(text, &Isolation { console, ..Isolation::default() });
        let (before, after) = (Document::parse(text).unwrap(), Document::parse(&xml).unwrap());
        for gone in OF_THE_HOST.iter().chain(&DEVICES_OF_THE_HOST) {
            // A channel, console or interface may have a child of that name.
            let left = elements(&after, gone);
            let parents = ["domain", "devices"];
            let is_top = |node: &Node<'_, '_>| {
                node.parent().is_some_and(|up| parents.contains(&up.tag_name().name()))
            };
            assert!(!left.iter().any(is_top), "{name}: {gone}\n{xml}");
        }
        let cards = elements(&after, "interface");
        assert_eq!(cards.len(), elements(&before, "interface").len(), "{name}");
        for card in cards {
            let source = child(card, "source").expect("a source");
            assert_eq!(card.attribute("type"), Some("udp"), "{name}\n{xml}");
            assert_eq!(source.attribute("address"), Some("127.0.0.1"), "{name}\n{xml}");
            assert_eq!(source.attribute("port"), Some("9"), "{name}\n{xml}");
        }
        let macs = |document: &Document<'_>| {
            let macs = elements(document, "mac").into_iter();
            macs.filter_map(|node| attribute(node, "address")).collect::<Vec<_>>()
        };
        assert_eq!(macs(&before), macs(&after), "{name}");
        for name in ["serial", "parallel", "console", "channel"] {
            let is_device = |node: &Node<'_, '_>| {
                node.parent().is_some_and(|up| up.tag_name().name() == "devices")
            };
            for device in elements(&after, name).into_iter().filter(is_device) {
                let kind = device.attribute("type");
                assert!(matches!(kind, Some("null" | "unix")), "{name}\n{xml}");
            }
        }
        let sockets = elements(&after, "source").into_iter();
        let sockets: Vec<_> =
            sockets.filter(|node| node.attribute("mode") == Some("bind")).collect();
        assert!(sockets.len() <= 1, "{name}\n{xml}");
        assert!(
            sockets.iter().all(|node| node.attribute("path") == Some("/run/s/console")),
            "{xml}"
        );
        for (action, wanted) in
            [("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "preserve")]
        {
            let found: Vec<_> = elements(&after, action).iter().map(Node::text).collect();
            assert_eq!(found, [Some(wanted)], "{name}: {action}");
        }
    }
}

#[test]
fn interfaces_are_on_one_network_or_on_none() {
    let (_, text) = ALL[0];
    let network = Some("closed & quiet".to_owned());
    let xml = isolated(text, &Isolation { network, ..Isolation::default() });
    let after = Document::parse(&xml).unwrap();
    let cards = elements(&after, "interface");
    assert!(!cards.is_empty());
    for card in cards {
        assert_eq!(card.attribute("type"), Some("network"));
        assert_eq!(attribute_of(card, "source", "network").as_deref(), Some("closed & quiet"));
    }
}

#[test]
fn the_clock_is_that_of_the_point() {
    for (offset, basis) in [("utc", "utc"), ("localtime", "localtime"), ("timezone", "localtime")] {
        let more = if offset == "timezone" { " timezone='Asia/Tokyo'" } else { "" };
        let text = format!(
            "<domain type='qemu'><name>a</name><uuid>0a1b2c3d-0001-4fff-8000-00000000000f</uuid>\
             <memory>1024</memory><vcpu>1</vcpu><os><type>hvm</type></os>\
             <clock offset='{offset}'{more}><timer name='hpet' present='no'/></clock>\
             <devices></devices></domain>"
        );
        let xml = isolated(&text, &Isolation { clock: Some(-86_400), ..Isolation::default() });
        let wanted = format!(
            "<clock basis='{basis}' adjustment='-86400' offset='variable'>\
             <timer name='hpet' present='no'/></clock>"
        );
        let after = Document::parse(&xml).unwrap();
        let clock = elements(&after, "clock")[0];
        let expected = Document::parse(&wanted).unwrap();
        let attributes = |node: Node<'_, '_>| {
            let mut all: Vec<_> = node
                .attributes()
                .map(|one| (one.name().to_owned(), one.value().to_owned()))
                .collect();
            all.sort();
            all
        };
        assert_eq!(attributes(clock), attributes(expected.root_element()), "{xml}");
        assert!(child(clock, "timer").is_some());
    }
}

#[test]
fn memory_and_processors_are_limited() {
    let limits = Isolation { memory: Some(1 << 30), processors: Some(2), ..Isolation::default() };
    for (name, text) in ALL {
        let xml = isolated(text, &limits);
        let after = Document::parse(&xml).unwrap();
        let root = after.root_element();
        for element in ["memory", "currentMemory"] {
            let Some(node) = child(root, element) else { continue };
            assert_eq!(
                (node.text(), node.attribute("unit")),
                (Some("1073741824"), Some("b")),
                "{name}"
            );
        }
        assert_eq!(child(root, "vcpu").and_then(|node| node.text()), Some("2"), "{name}");
        for gone in ["topology", "numa", "maxMemory", "vcpus"] {
            assert!(elements(&after, gone).is_empty(), "{name}: {gone}");
        }
    }
}
