//! stub
/// x
pub fn plain(h: &[&str], rows: Vec<Vec<String>>, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    writeln!(out, "{}", h.join(" "))?;
    for r in rows {
        writeln!(out, "{}", r.join("  "))?;
    }
    Ok(())
}
