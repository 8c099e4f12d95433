//! The messages of the demonstration, one for each way to name recipients.

use std::fs;
use std::io;

use crate::spool::Layout;

/// The samples, and the report on the recipient that is refused.
pub(super) const EXPECTED_FINISHED: usize = SAMPLES.len() + 1;

struct Sample {
    name: &'static str,
    /// File ending and text, where there is one.
    sidecar: Option<(&'static str, &'static str)>,
    content: &'static str,
}

const SAMPLES: [Sample; 4] = [
    // Several domains in one message: one copy each.
    Sample {
        name: "welcome",
        sidecar: Some((
            "toml",
            "from = \"alice@sender.test\"\nto = [\"bob@one.test\", \"carol@one.test\", \"dave@two.test\", \"erin@three.test\"]\n",
        )),
        content: "From: Alice <alice@sender.test>\r\nTo: friends:;\r\nSubject: Welcome\r\n\r\nOne message, three domains.\r\n",
    },
    // One recipient is refused for good: its sender gets a report.
    Sample {
        name: "order",
        sidecar: Some(("json", r#"{"reverse_path": "shop@sender.test", "forward_path": ["bob@one.test", "nobody@two.test"]}"#)),
        content: "From: shop@sender.test\r\nTo: bob@one.test, nobody@two.test\r\nSubject: Your order\r\n\r\nIt is on its way.\r\n",
    },
    // Deferred once, then taken.
    Sample {
        name: "invoice",
        sidecar: None,
        content: "X-Sender: billing@sender.test\r\nX-Receiver: later@three.test\r\nFrom: billing@sender.test\r\nTo: later@three.test\r\n\
                  Subject: Invoice\r\n\r\n.dots and all\r\n",
    },
    // LF lines, recipients from the header, an internationalised domain, a blind copy.
    Sample {
        name: "hello",
        sidecar: None,
        content: "From: me@sender.test\nTo: info@bücher.test\nBcc: hidden@one.test\nSubject: Hello\n\nWritten with a text editor.\n",
    },
];

/// Drops them all, as any program would: sidecar first, then the file, renamed in.
pub(super) fn drop_all(layout: &Layout) -> io::Result<()> {
    for sample in &SAMPLES {
        if let Some((ending, text)) = sample.sidecar {
            fs::write(layout.drop().join(format!("{}.{ending}", sample.name)), text)?;
        }
        let built = layout.tmp().join(format!("{}.eml", sample.name));
        fs::write(&built, sample.content)?;
        fs::rename(built, layout.drop().join(format!("{}.eml", sample.name)))?;
    }
    Ok(())
}
