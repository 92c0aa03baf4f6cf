//! Entries as ordinary writers make them, at random.

use crate::{
    random::Random,
    tar::{self, Entry},
};

/// An entry as some writer makes it: any dialect, type, length of name, numbers and records that go together.
pub fn random_entry(random: &mut Random) -> Entry {
    let mut letter = || *b"abcdefgh/._-xyz0"[random.below(16)..].first().expect("16 letters");
    let mut name: Vec<u8> = (0..3).map(|_| letter()).collect();
    let len = [3, 40, 99, 100, 101, 156, 255, 300, 1000][random.below(9)];
    while name.len() < len {
        let part = random.below(40) + 1;
        name.extend((0..part).map(|_| b"abcdefghijklmnop"[random.below(16)]));
        name.push(b'/');
    }
    name.truncate(len);
    name.insert(0, b'n');
    *name.last_mut().expect("not empty") = b'z';
    let content = tar::noise(random.number(), [0, 1, 64, 65, 511, 512, 513, 3000][random.below(8)]);
    let target = [&b"t"[..], &[b'u'; 100], &[b'v'; 101], b"../a/b", b"/abs"][random.below(5)].to_vec();
    let dialect = random.below(3);
    let short = |bytes: &[u8]| bytes[..bytes.len().min(90)].to_vec();
    if dialect == 2 {
        let (mut name, target) = (short(&name), short(&target));
        *name.last_mut().expect("not empty") = b'z';
        return match random.below(4) {
            0 => tar::dir(name),
            1 => tar::symlink(name, target),
            2 => tar::hardlink(name, target),
            _ => tar::file(name, content),
        }
        .v7();
    }
    let entry = match random.below(9) {
        0 => tar::dir([name, b"/".to_vec()].concat()),
        1 => tar::dir(name),
        2 => tar::symlink(name, target),
        3 => tar::hardlink(name, target),
        4 => tar::char_device(name, random.below(4096) as u32, random.below(1 << 20) as u32),
        5 => tar::block_device(name, random.below(4096) as u32, random.below(1 << 20) as u32),
        6 => tar::fifo(name),
        7 => tar::file(name, content).typeflag(b'7'),
        _ => tar::file(name, content),
    };
    let owner =
        |random: &mut Random| -> u64 { [0, 1000, 0o777_7777, 0o1000_0000, (1 << 32) - 2][random.below(5)] };
    let entry = entry.owner(owner(random), owner(random)).mode(random.below(0o10000) as u32);
    let entry = entry.mtime([0, 1, 1_700_000_000, (1 << 33) - 1][random.below(4)]);
    if dialect == 1 {
        return entry.gnu();
    }
    match random.below(5) {
        0 => entry.precise_mtime(["1.5", "1700000000.123456789", "7.000000001", "3."][random.below(4)]),
        1 => entry.xattr("user.name", tar::noise(random.number(), random.below(300))),
        2 => entry.pax("uid", owner(random).to_string()).pax("VENDOR.key", "value"),
        3 => entry.pax("path", "a path/in records").pax("path", "another/in records"),
        _ => entry,
    }
}
