//! RE2's syntax in that of the `regex` crate. The two are nearly one; where the crate reads a pattern otherwise than
//! RE2, it is written so that it means the same, or refused: a route that matches something else would be a route that
//! is not there.

use regex_syntax::ast::{self, Ast, Span};

/// The most that RE2 repeats anything, one repetition within another multiplied.
const MOST_REPEATED: u32 = 1000;
/// The longest expression, in bytes. What is longer would be too big when compiled, but for its syntax tree first, which is
/// a hundred times as large.
const LONGEST: usize = 64 << 10;
/// Classes with all of Unicode to choose from. Each is hundreds of ranges, and thousands of steps where case is ignored,
/// before the size of anything is looked at.
const MOST_CLASSES: usize = 100;

/// `pattern` in the crate's syntax; `unicode`: whether it will be compiled with Unicode's classes.
///
/// # Errors
///
/// What RE2 refuses, or what the crate cannot say.
pub(super) fn translate(pattern: &str, unicode: bool) -> Result<String, String> {
    if pattern.len() > LONGEST {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    let ast = ast::parse::Parser::new().parse(pattern).map_err(|error| error.kind().to_string())?;
    let edits = ast::visit(&ast, Translator { unicode, edits: Vec::new(), classes: 0, room: Vec::new() })?;
    let mut translated = String::with_capacity(pattern.len());
    let mut copied = 0;
    for (span, text) in edits {
        translated.push_str(pattern.get(copied..span.start.offset).unwrap_or_default());
        translated.push_str(&text);
        copied = span.end.offset;
    }
    translated.push_str(pattern.get(copied..).unwrap_or_default());
    Ok(translated)
}

/// Collects what is to be written otherwise, in the order in which it stands.
struct Translator {
    unicode: bool,
    edits: Vec<(Span, String)>,
    /// How many classes there were.
    classes: usize,
    /// For each repetition that it is within, how often what is in there may be repeated.
    room: Vec<u32>,
}

impl Translator {
    fn class(&mut self) -> Result<(), String> {
        self.classes = self.classes.saturating_add(1);
        if !self.unicode || self.classes <= MOST_CLASSES {
            return Ok(());
        }
        Err(format!("has more than {MOST_CLASSES} classes of characters beside some that are not ASCII"))
    }

    fn repetition(&mut self, kind: &ast::RepetitionKind) -> Result<(), String> {
        let most = match kind {
            ast::RepetitionKind::Range(
                ast::RepetitionRange::Exactly(n)
                | ast::RepetitionRange::AtLeast(n)
                | ast::RepetitionRange::Bounded(_, n),
            ) => *n,
            _ => 1,
        };
        match self.room.last().unwrap_or(&MOST_REPEATED).checked_div(most.max(1)) {
            None | Some(0) => Err(format!("RE2 repeats {MOST_REPEATED} times at most, one within another multiplied")),
            Some(room) => {
                self.room.push(room);
                Ok(())
            }
        }
    }

    fn perl(&mut self, class: &ast::ClassPerl) {
        let set = match class.kind {
            ast::ClassPerlKind::Digit => "0-9",
            ast::ClassPerlKind::Space => r"\t\n\f\r ",
            ast::ClassPerlKind::Word => "0-9A-Za-z_",
        };
        self.edits.push((class.span, format!("[{}{set}]", if class.negated { "^" } else { "" })));
    }
}

fn literal(literal: &ast::Literal) -> Result<(), String> {
    match literal.kind {
        ast::LiteralKind::HexFixed(ast::HexLiteralKind::X) | ast::LiteralKind::HexBrace(ast::HexLiteralKind::X) => {
            Ok(())
        }
        ast::LiteralKind::HexFixed(_) | ast::LiteralKind::HexBrace(_) => Err(r"RE2 writes it \x{10FFFF}".into()),
        _ => Ok(()),
    }
}

/// RE2 knows general categories and scripts, by the names that Unicode gives them.
fn unicode_class(class: &ast::ClassUnicode) -> Result<(), String> {
    let known = match &class.kind {
        ast::ClassUnicodeKind::OneLetter(letter) => "CLMNPSZ".contains(*letter),
        ast::ClassUnicodeKind::Named(name) => {
            let capital = name.starts_with(|first: char| first.is_ascii_uppercase());
            let of = |property: &str| regex_syntax::parse(&format!(r"\p{{{property}={name}}}")).is_ok();
            capital && (of("sc") || name.len() <= 2 && of("gc"))
        }
        ast::ClassUnicodeKind::NamedValue { .. } => false,
    };
    if known { Ok(()) } else { Err("RE2 knows no such class of characters".into()) }
}

fn flags(flags: &ast::Flags) -> Result<(), String> {
    let unknown = flags.items.iter().any(|item| {
        matches!(
            item.kind,
            ast::FlagsItemKind::Flag(ast::Flag::Unicode | ast::Flag::CRLF | ast::Flag::IgnoreWhitespace)
        )
    });
    if unknown { Err("RE2's flags are i, m, s and U".into()) } else { Ok(()) }
}

impl ast::Visitor for Translator {
    type Output = Vec<(Span, String)>;
    type Err = String;

    fn finish(self) -> Result<Self::Output, String> {
        Ok(self.edits)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), String> {
        match ast {
            Ast::Flags(set) => flags(&set.flags),
            Ast::Group(group) => match &group.kind {
                ast::GroupKind::NonCapturing(set) => flags(set),
                ast::GroupKind::CaptureIndex(_) | ast::GroupKind::CaptureName { .. } => Ok(()),
            },
            Ast::Literal(character) => literal(character),
            Ast::Assertion(assertion) => match assertion.kind {
                ast::AssertionKind::StartLine
                | ast::AssertionKind::EndLine
                | ast::AssertionKind::StartText
                | ast::AssertionKind::EndText => Ok(()),
                ast::AssertionKind::WordBoundary | ast::AssertionKind::NotWordBoundary => {
                    if self.unicode {
                        let negated = assertion.kind == ast::AssertionKind::NotWordBoundary;
                        self.edits.push((assertion.span, if negated { r"(?-u:\B)" } else { r"(?-u:\b)" }.into()));
                    }
                    Ok(())
                }
                ast::AssertionKind::WordBoundaryStartAngle => {
                    self.edits.push((assertion.span, "<".into()));
                    Ok(())
                }
                ast::AssertionKind::WordBoundaryEndAngle => {
                    self.edits.push((assertion.span, ">".into()));
                    Ok(())
                }
                _ => Err(r"RE2's assertions are ^ $ \A \z \b \B".into()),
            },
            Ast::ClassUnicode(class) => {
                unicode_class(class)?;
                self.class()
            }
            Ast::ClassPerl(class) => {
                self.perl(class);
                self.class()
            }
            Ast::Repetition(repetition) => {
                if matches!(*repetition.ast, Ast::Repetition(_)) {
                    return Err("what is repeated cannot be repeated again without a group around it".into());
                }
                self.repetition(&repetition.op.kind)
            }
            Ast::ClassBracketed(_) => self.class(),
            Ast::Empty(_) | Ast::Dot(_) | Ast::Alternation(_) | Ast::Concat(_) => Ok(()),
        }
    }

    fn visit_post(&mut self, ast: &Ast) -> Result<(), String> {
        if matches!(ast, Ast::Repetition(_)) {
            self.room.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), String> {
        match item {
            ast::ClassSetItem::Bracketed(_) => Err(r"a [ within a class is written \[".into()),
            ast::ClassSetItem::Literal(character) => literal(character),
            ast::ClassSetItem::Range(range) => literal(&range.start).and_then(|()| literal(&range.end)),
            ast::ClassSetItem::Unicode(class) => {
                unicode_class(class)?;
                self.class()
            }
            ast::ClassSetItem::Perl(class) => {
                self.perl(class);
                Ok(())
            }
            ast::ClassSetItem::Empty(_) | ast::ClassSetItem::Ascii(_) | ast::ClassSetItem::Union(_) => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), String> {
        Err(r"two of & - ~ within a class are written with a backslash before each".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same_stays() {
        for pattern in [
            "/a|/b+?",
            "(?i:a)(?P<n>b)(?:c)",
            r"\x41\x{e9}\a\.\%",
            "[[:alpha:]a-z]",
            r"\pN\p{Greek}\p{Lu}\PL",
            r"^\A$\z",
            "(a*)*",
            "a{1000}",
            "(a{10}b{100}){10}(c{1000})*",
        ] {
            assert_eq!(translate(pattern, true).as_deref(), Ok(pattern));
        }
        assert_eq!(translate(r"\b\B", false).as_deref(), Ok(r"\b\B"));
    }

    #[test]
    fn what_the_crate_reads_otherwise_is_written_as_re2_means_it() {
        for (pattern, meant) in [
            (r"é\d\D", r"é[0-9][^0-9]"),
            (r"[\w\s-]\W", r"[[0-9A-Za-z_][\t\n\f\r ]-][^0-9A-Za-z_]"),
            (r"\bé\B", r"(?-u:\b)é(?-u:\B)"),
            (r"/\<a\>", "/<a>"),
        ] {
            assert_eq!(translate(pattern, true).as_deref(), Ok(meant));
        }
    }

    #[test]
    fn what_re2_refuses_or_means_otherwise_is_refused() {
        for pattern in [
            "[a-z&&b]",
            "[a[b]]",
            "[a-c~~b]",
            "[+--]",
            r"[\w&&[^\d]]",
            "[[:foo:]]",
            r"\b{start}a",
            "a++",
            "a**",
            "a???",
            "a{2}{3}",
            "a*{2}",
            "a{1001}",
            "a{2,1001}",
            "(a{1000}){1000}",
            "((?:ab{2,10}c)*d{500}){3}",
            "(?x)a",
            "(?R)a",
            "(?u)a",
            "(?x:a)",
            r"\u1234",
            r"[\u1234]",
            r"\p{lu}",
            r"\p{Alphabetic}",
            r"\p{Script=Greek}",
            r"[\p{lu}]",
            r"\pX",
            "(",
            "(?=a)",
        ] {
            assert!(translate(pattern, false).is_err(), "{pattern}");
        }
    }
}
