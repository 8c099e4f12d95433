//! What must become of each recipient, and when: a function of the phase and of what the peer does in it, by the rules of SMTP sessions
//! (RFC 5321 4.2, 4.5.3.2) and nothing else. No cell is left open.
#![allow(dead_code, unreachable_pub)]

use crate::hostile::{At, Cell, Manner, Wrong};

/// What became of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Delivered,
    /// Deferred with 4.x.y once no further address is left.
    Elsewhere(u16, u16),
    /// The peer may have it: deferred, and tried nowhere else at once.
    InDoubt,
    /// Failed with 5.x.y.
    Failed(u16, u16),
    /// As if it had not been given to this session: a new one to the same peer is the thing to do.
    Untried,
    /// What no cell expects.
    Odd,
}

/// What a wrong reply is to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// As good as the due one.
    Fine,
    /// Nothing that SMTP knows.
    Garbage,
    /// A reply of this code.
    Code(u16),
    /// The due one, and one too many.
    Extra,
    /// The connection is gone.
    Lost,
    /// No reply until the limit has passed.
    Silence,
}

fn effect(cell: Cell) -> Effect {
    use Effect::{Extra, Fine, Garbage, Lost, Silence};
    match cell.wrong {
        Wrong::SlowReply | Wrong::NulInText | Wrong::NotUtf8 | Wrong::BareLf => Fine,
        Wrong::EndlessLine | Wrong::EndlessReply | Wrong::Endless354 | Wrong::NulBeforeCode | Wrong::ControlInCode => Garbage,
        Wrong::TrickledLine | Wrong::TrickledReply | Wrong::TlsTrickle | Wrong::BareCr | Wrong::Silent => Silence,
        Wrong::ReadsAnOctetASecond | Wrong::ReadsTooSlowly => Silence,
        Wrong::Fin | Wrong::HalfReply | Wrong::Rst => Lost,
        // A record that cannot be read, an alert: TLS is over, and the connection with it.
        Wrong::TlsAlert | Wrong::TlsGarbage | Wrong::TlsChain => Lost,
        Wrong::Farewell => Effect::Code(421),
        Wrong::Twice | Wrong::Ahead => Extra,
        Wrong::Code(code) => match (code, cell.at) {
            (200..300, At::Data) => Garbage,
            (200..300, _) => Fine,
            (300..400, At::Data) => Fine,
            // Every 3xx asks for the credentials again.
            (300..400, At::Auth) => Fine,
            (400..600, _) => Effect::Code(code),
            _ => Garbage,
        },
    }
}

/// What becomes of the two recipients of each letter.
pub fn outcome(cell: Cell) -> Vec<[Want; 2]> {
    use Want::{Delivered, Elsewhere, Failed, InDoubt, Untried};
    let effect = effect(cell);
    let both = |want: Want| [want; 2];
    // What holds for a recipient whose command, or whose whole mail, met it.
    let met = match effect {
        Effect::Fine => Delivered,
        Effect::Garbage | Effect::Extra => Elsewhere(5, 0),
        Effect::Lost | Effect::Silence => Elsewhere(4, 2),
        Effect::Code(500..) => Failed(0, 0),
        Effect::Code(_) => Elsewhere(0, 0),
    };
    // The same at the end of content that has left.
    let ended = match effect {
        Effect::Extra => Delivered,
        Effect::Garbage | Effect::Lost | Effect::Silence => InDoubt,
        _ => met,
    };
    let in_the_middle = matches!(effect, Effect::Code(code) if code != 421);
    match cell.at {
        At::Greeting | At::Ehlo | At::StartTls | At::Handshake | At::EhloTls | At::Auth => vec![both(opening(cell, effect))],
        At::Mail => vec![both(if is_in_order(cell) { Delivered } else { met })],
        // Another recipient's refusal is no matter of this one.
        At::Rcpt1 if in_the_middle => vec![[met, Delivered]],
        At::Rcpt2 if in_the_middle => vec![[Delivered, met]],
        At::Rcpt1 | At::Rcpt2 => vec![both(if is_in_order(cell) { Delivered } else { met })],
        At::Data => vec![both(met)],
        // Whatever is said before the end of the content, it is not the word on the content, unless it is a refusal.
        At::Content if effect == Effect::Fine => vec![both(Elsewhere(5, 0))],
        At::Content => vec![both(met)],
        At::Dot => vec![both(ended)],
        At::NextMail => vec![
            both(Delivered),
            both(match effect {
                // So ends a session, and is no matter of the mail.
                Effect::Lost | Effect::Code(421) => Untried,
                _ => met,
            }),
        ],
        At::Reset => vec![
            both(Failed(1, 1)),
            both(match effect {
                Effect::Lost | Effect::Code(421) => Untried,
                // RSET cannot be refused, so what it is answered says nothing of the mail.
                Effect::Code(_) => Elsewhere(5, 0),
                _ => met,
            }),
        ],
        At::Bdat | At::WindowLast => {
            let mut all = vec![both(Delivered); if cell.at == At::Bdat { 0 } else { 2 }];
            // The peer does not know BDAT, whatever it offers.
            all.push(both(match cell.wrong {
                Wrong::Code(500) => Elsewhere(5, 0),
                // The word on the content came before its end: it is not taken for one.
                Wrong::Ahead => InDoubt,
                _ => ended,
            }));
            all
        }
        At::WindowFirst => match effect {
            // Those behind have left, too.
            Effect::Garbage | Effect::Lost | Effect::Silence => vec![both(InDoubt); 3],
            Effect::Code(500) => vec![both(Elsewhere(5, 0)), both(InDoubt), both(InDoubt)],
            // The peer looks at nothing that came behind.
            Effect::Code(421) => vec![both(ended), both(Untried), both(Untried)],
            _ => vec![both(ended), both(Delivered), both(Delivered)],
        },
        At::Quit => vec![both(Delivered)],
    }
}

/// Whether a reply too many is the one to a command of the same turn, which the client has sent already.
fn is_in_order(cell: Cell) -> bool {
    cell.wrong == Wrong::Ahead && cell.manner != Manner::Lockstep
}

/// Before MAIL, whatever happens is the host's matter and never final.
fn opening(cell: Cell, effect: Effect) -> Want {
    use Want::{Delivered, Elsewhere};
    let in_clear_again = cell.manner == Manner::Opportunistic;
    match (cell.at, effect) {
        (At::Handshake, _) if in_clear_again => Delivered,
        (At::Handshake, _) => Elsewhere(7, 5),
        (_, Effect::Fine) => Delivered,
        // Somebody is in between: not tried in clear text either.
        (At::StartTls, Effect::Extra) => Elsewhere(7, 5),
        // HELO.
        (At::Ehlo | At::EhloTls, Effect::Code(500..)) => Delivered,
        (At::StartTls, _) if in_clear_again => Delivered,
        (At::EhloTls, Effect::Garbage | Effect::Lost | Effect::Silence) if in_clear_again => Delivered,
        (_, Effect::Garbage | Effect::Extra) => Elsewhere(5, 0),
        (_, Effect::Lost | Effect::Silence) => Elsewhere(4, 2),
        (At::StartTls, Effect::Code(_)) => Elsewhere(7, 4),
        (At::Auth, Effect::Code(_)) => Elsewhere(7, 8),
        (_, Effect::Code(_)) => Elsewhere(4, 2),
    }
}

/// After how many seconds it must be known: the phase's limit, plus nothing.
pub fn seconds(cell: Cell) -> u64 {
    if cell.at == At::Quit {
        return 0;
    }
    if cell.wrong == Wrong::SlowReply {
        return cell.due().len() as u64 + 2;
    }
    if cell.wrong == Wrong::ReadsTooSlowly {
        // The block's 180 s, and six blocks of 64 KiB at 500 octets a second: 400 octets a second are 982 s by then.
        return 180 + 6 * 64 * 1024 / 500;
    }
    if effect(cell) != Effect::Silence {
        return 0;
    }
    match cell.at {
        At::Data => 120,
        At::Content => 180,
        At::Dot | At::Bdat | At::WindowFirst | At::WindowLast => 600,
        _ => 300,
    }
}

/// Connections that it takes: a second one in clear text where TLS broke and is not required.
pub fn dials(cell: Cell) -> usize {
    let again = match (cell.at, effect(cell)) {
        (At::Handshake, _) => true,
        (At::StartTls, Effect::Code(code)) => code == 421,
        (At::StartTls | At::EhloTls, effect) => matches!(effect, Effect::Garbage | Effect::Lost | Effect::Silence),
        _ => false,
    };
    1 + usize::from(again && cell.manner == Manner::Opportunistic)
}
