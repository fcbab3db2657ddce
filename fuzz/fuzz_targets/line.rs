//! What is taken renders to one printable line that reads as itself.

#![no_main]

use authorized_keys_agent::model::escape::escaped;
use authorized_keys_agent::model::key::line::Line;

libfuzzer_sys::fuzz_target!(|line: &[u8]| {
    if let Ok(Line::Key(key)) = Line::read(line) {
        let rendered = key.to_string();
        let plain = rendered.replace('\t', " ");
        assert_eq!(escaped(&plain), plain, "not printable");
        assert_eq!(Line::read(rendered.as_bytes()), Ok(Line::Key(key)));
    }
});
