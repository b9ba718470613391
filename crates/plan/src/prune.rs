//! Codecs that no plan needs, taken away before the search: its work grows with their number.

use crate::{End, Problem};

impl Problem {
    /// Takes away the codecs that no plan is better with: those that another one beats in bytes at every boundary and in
    /// time on every machine, and those that take longer to encode and to decode, on every link, than the bytes of the
    /// first codec take to travel. Codecs that are worse than a better one by no more than `tolerance`, a share, in no respect
    /// but better are taken away as well. The first codec always stays.
    ///
    /// # Panics
    /// When the codecs have figures for other boundaries or devices.
    pub fn prune_codecs(&mut self, tolerance: f64) {
        let ends: Vec<End> = self.ends().collect();
        let covers = |a: usize, b: usize, factor: f64| {
            let (a, b) = (&self.codecs[a], &self.codecs[b]);
            let bytes = std::iter::zip(&a.bytes, &b.bytes).all(|(&a, &b)| a as f64 <= b as f64 * factor);
            bytes
                && ends.iter().all(|&end| {
                    let (a, b) = (a.cost(end), b.cost(end));
                    a.encode_seconds <= b.encode_seconds * factor
                        && a.decode_seconds <= b.decode_seconds * factor
                })
        };
        let all = 1..self.codecs.len();
        // What is beaten outright by one that is beaten itself is beaten by the last of the line, too.
        let beaten = |&b: &usize| {
            (0..self.codecs.len()).any(|a| a != b && covers(a, b, 1.0) && (a < b || !covers(b, a, 1.0)))
        };
        let candidates: Vec<usize> = all.filter(|b| !beaten(b) && !self.is_idle(*b)).collect();
        let mut kept = vec![0];
        for b in candidates {
            // Only against those that stay: small shares would add up otherwise.
            if !kept.iter().any(|&a| covers(a, b, 1.0 + tolerance)) {
                kept.push(b);
            }
        }
        let codecs = std::mem::take(&mut self.codecs);
        let stays = codecs.into_iter().enumerate().filter(|(i, _)| kept.contains(i));
        self.codecs = stays.map(|(_, codec)| codec).collect();
    }

    /// Whether a codec takes both ends of every link as long as the link takes for what is not encoded. Then whatever
    /// waits for the link waits for the codec instead; energy and shared airtime are another matter. That fewer bytes are
    /// less work to send and receive does not count: it is no reason to change values on a link that is no limit.
    fn is_idle(&self, codec: usize) -> bool {
        let codec = &self.codecs[codec];
        let on_link = |from: End, to: End| {
            let link = self.links.get(from, to);
            let travels = 1.0 / link.bandwidth.min(self.host(from).bandwidth).min(self.host(to).bandwidth);
            let (sends, receives) = (codec.cost(from).encode_seconds, codec.cost(to).decode_seconds);
            let only_bytes = link.joules_per_byte == 0.0 && link.frame_seconds == 0.0;
            only_bytes && sends >= travels && receives >= travels
        };
        let mut links = End::pairs(self.devices.len());
        self.media.is_empty() && links.all(|(from, to)| on_link(from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Boundary, Codec, CodecCost, Device, Link, Links, Medium, Queues, Resources, Unit};

    /// A problem with raw tensors of 100 bytes at two boundaries, and codecs by bytes and seconds per byte.
    fn problem(link: Link, codecs: &[(&str, [u64; 2], f64, f64)]) -> Problem {
        let devices = vec![Device::of_speed("a", 1.0), Device::of_speed("b", 1.0)];
        let boundaries = vec![Boundary { bytes: 100, tensors: 1 }; 2];
        let resources = Resources { links: Links::uniform(2, link), ..Resources::on_free_links(devices) };
        let mut problem = Problem::new(vec![Unit::default()], boundaries, Queues::default(), resources);
        problem.codecs.extend(codecs.iter().map(|&(name, bytes, encode_seconds, decode_seconds)| {
            let cost = CodecCost { encode_seconds, decode_seconds };
            Codec {
                name: name.into(),
                bytes: bytes.into(),
                dispatcher: cost,
                devices: vec![cost; 2],
                copies: 0,
            }
        }));
        problem
    }

    fn names(problem: &Problem) -> Vec<&str> {
        problem.codecs.iter().map(|codec| codec.name.as_str()).collect()
    }

    const SLOW: Link = Link { bandwidth: 0.01, ..Link::FREE };

    #[test]
    fn what_another_codec_beats_is_gone() {
        for (codecs, expected) in [
            (&[("grows", [101, 100], 1.0, 1.0)][..], &["raw"][..]),
            (&[("helps once", [101, 90], 1.0, 1.0)], &["raw", "helps once"]),
            (&[("a", [50, 50], 1.0, 1.0), ("b", [50, 50], 1.0, 1.0)], &["raw", "a"]),
            (&[("a", [50, 50], 2.0, 1.0), ("b", [50, 50], 1.0, 1.0)], &["raw", "b"]),
            (&[("a", [50, 50], 2.0, 1.0), ("b", [50, 50], 1.0, 2.0)], &["raw", "a", "b"]),
            (&[("a", [50, 40], 1.0, 1.0), ("b", [40, 50], 1.0, 1.0)], &["raw", "a", "b"]),
            // Nearly as good is as good, but not by way of a third that is gone itself.
            (&[("a", [50, 50], 1.0, 1.0), ("b", [50, 50], 0.98, 1.01)], &["raw", "a"]),
            (
                &[("a", [50, 50], 1.0, 1.0), ("b", [50, 50], 0.98, 1.04), ("c", [50, 50], 0.94, 1.08)],
                &["raw", "a", "c"],
            ),
        ] {
            let mut problem = problem(SLOW, codecs);
            problem.prune_codecs(0.05);
            assert_eq!(names(&problem), expected, "{codecs:?}");
        }
    }

    #[test]
    fn what_takes_longer_than_it_saves_is_gone() {
        let codecs = [("a", [50, 25], 3.0, 2.0)];
        let left = |link: Link, change: &dyn Fn(&mut Problem)| {
            let mut problem = problem(link, &codecs);
            change(&mut problem);
            problem.prune_codecs(0.0);
            problem.codecs.len() == 2
        };
        let link = |bandwidth| Link { bandwidth, ..Link::FREE };
        let nothing = |_: &mut Problem| {};
        assert!(!left(Link::FREE, &nothing));
        assert!(!left(link(0.5), &nothing), "decoding takes as long as a byte on its way");
        assert!(left(link(0.4), &nothing));
        let one_slow = |p: &mut Problem| p.links.set(End::Device(0), End::Device(1), link(0.4));
        assert!(left(Link::FREE, &one_slow));
        assert!(left(Link::FREE, &|p| p.dispatcher.bandwidth = 0.4));
        assert!(left(Link { frame_seconds: 1.0, ..Link::FREE }, &nothing));
        assert!(left(Link { joules_per_byte: 1.0, ..Link::FREE }, &nothing));
        let links = vec![(End::Dispatcher, End::Device(0))];
        assert!(left(Link::FREE, &|p| p.media.push(Medium { name: "air".into(), links: links.clone() })));
    }
}
