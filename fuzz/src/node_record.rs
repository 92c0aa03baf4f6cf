//! Records of the node cache out of any bytes. Knows that they are hints; ignores what nodes make.

use super::{memory, store::with_repository};

/// Where the record is put; its key is part of what is read.
const KEY: &str = "00f00ba4";

/// Puts the bytes where the record of a node is, and reads and writes it.
pub fn node_record(data: &[u8]) {
    with_repository(|repository| {
        let store = &repository.store;
        repository.put(format!("cfs-dag/nodes/00/{KEY}.json"), data);
        assert!(store.is_recorded(KEY));
        let limit = (1 << 20) + 100 * data.len();
        let Some(record) = memory::bounded("a record", limit, || store.remembered(KEY)) else { return };
        store.remember(KEY, &record).expect("the repository takes it");
        assert_eq!(store.remembered(KEY).as_ref(), Some(&record));
    });
}
