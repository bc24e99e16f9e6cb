package scope

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxPrefixLen bounds a prefix in bytes. Keys of the stores we serve are far
// shorter than this, and the routing index costs memory by prefix length.
const MaxPrefixLen = 512

// MaxKeyLen bounds a key in bytes that may be asked for in a route call.
const MaxKeyLen = 64 << 10

// ErrBadText is wrapped by every error of [ParsePrefix] and [ParseBytes].
var ErrBadText = errors.New("not a valid text form of bytes")

// Prefix is the leading bytes that all keys of a scope share. It is a string
// only because strings are immutable; it holds arbitrary bytes, not UTF-8.
type Prefix string

// Bytes returns a copy of the prefix as bytes.
func (p Prefix) Bytes() []byte { return []byte(p) }

// Matches reports whether key belongs under the prefix.
func (p Prefix) Matches(key []byte) bool {
	return len(key) >= len(p) && string(key[:len(p)]) == string(p)
}

// Contains reports whether every key under q is also under p; p contains itself.
func (p Prefix) Contains(q Prefix) bool { return strings.HasPrefix(string(q), string(p)) }

// Overlaps reports whether some key is under both prefixes, which is so exactly
// if one of them contains the other.
func (p Prefix) Overlaps(q Prefix) bool { return p.Contains(q) || q.Contains(p) }

// Text is the prefix in the project's one text form for bytes, see [BytesText].
func (p Prefix) Text() string { return BytesText(string(p)) }

// String is Text, so that a prefix in a message or log line is readable.
func (p Prefix) String() string { return p.Text() }

// Format writes the text form for every verb, for %q between quotation marks:
// %q of the text would escape its backslashes a second time, and what a message
// shows could not be pasted back.
func (p Prefix) Format(f fmt.State, verb rune) {
	text := p.Text()
	if verb == 'q' {
		text = `"` + text + `"`
	}
	_, _ = io.WriteString(f, text)
}

// ParsePrefix reverses [Prefix.Text]. It refuses more than [MaxPrefixLen] bytes.
func ParsePrefix(text string) (Prefix, error) {
	raw, err := ParseBytes(text)
	if err != nil {
		return "", err
	}
	if len(raw) > MaxPrefixLen {
		return "", fmt.Errorf("%w: the prefix has %d bytes, the limit is %d", ErrBadText, len(raw), MaxPrefixLen)
	}
	return Prefix(raw), nil
}

// BytesText writes raw bytes as text: printable UTF-8 stays as it is, a
// backslash becomes `\\`, and every other byte becomes `\xNN`. It is used
// wherever a prefix or key is text (JSON, TOML, CLI, logs, labels), so that any
// byte string survives the way there and back through [ParseBytes].
func BytesText(raw string) string {
	if plain(raw) {
		return raw
	}
	var b strings.Builder
	for len(raw) > 0 {
		r, size := utf8.DecodeRuneInString(raw)
		switch {
		case r == '\\':
			b.WriteString(`\\`)
		case r == utf8.RuneError && size == 1, !unicode.IsPrint(r):
			for _, c := range []byte(raw[:size]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		default:
			b.WriteString(raw[:size])
		}
		raw = raw[size:]
	}
	return b.String()
}

func plain(raw string) bool {
	for _, c := range []byte(raw) {
		if c < 0x20 || c > 0x7e || c == '\\' {
			return false
		}
	}
	return true
}

// ParseBytes reverses [BytesText]. Only `\\` and `\xNN` are escapes; anything
// else after a backslash, and text that is not UTF-8, is refused, so that a typo
// cannot quietly name other bytes.
func ParseBytes(text string) (string, error) {
	if !utf8.ValidString(text) {
		return "", fmt.Errorf(`%w: %q is not UTF-8; write such bytes as \xNN`, ErrBadText, text)
	}
	if strings.IndexByte(text, '\\') < 0 {
		return text, nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			b.WriteByte(text[i])
			continue
		}
		c, used := unescape(text[i+1:])
		if used == 0 {
			return "", fmt.Errorf(`%w: at byte %d of %q: a backslash is written \\ and a byte \xNN`, ErrBadText, i, text)
		}
		b.WriteByte(c)
		i += used
	}
	return b.String(), nil
}

// unescape reads what follows a backslash and says how many bytes it used.
func unescape(s string) (c byte, used int) {
	if s != "" && s[0] == '\\' {
		return '\\', 1
	}
	if len(s) < 3 || s[0] != 'x' {
		return 0, 0
	}
	hi, ok1 := hexDigit(s[1])
	lo, ok2 := hexDigit(s[2])
	if !ok1 || !ok2 {
		return 0, 0
	}
	return hi<<4 | lo, 3
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
