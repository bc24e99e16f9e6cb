package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/transport/resp"
)

var small = Limits{Args: 8, Request: 200, Inline: 40}

// scanned is what a scanner finds in a stream that comes in pieces of so many bytes: each request's arguments as text, and
// the error at the end.
func scanned(stream []byte, piece int, lim Limits) (found []string, err error) {
	s := NewScanner(lim)
	var buf []byte
	for rest := stream; ; {
		args, size, err := s.Scan(buf)
		switch {
		case err != nil:
			return found, err
		case size > 0:
			if len(args) > 0 {
				found = append(found, fmt.Sprintf("inline=%v %q", s.Inline(), args))
			}
			buf = buf[size:]
		case len(rest) == 0:
			if len(buf) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return found, err
		default:
			if n := s.Missing(buf); n < 1 || n > lim.Request+2 {
				return found, fmt.Errorf("%d bytes are missing", n)
			}
			n := min(piece, len(rest))
			buf = append(append([]byte(nil), buf...), rest[:n]...) // elsewhere in memory
			rest = rest[n:]
		}
	}
}

func TestScanner(t *testing.T) {
	for name, c := range map[string]struct {
		stream, found, err string
	}{
		"two":           {"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", `inline=false ["PING"]; inline=false ["GET" "k"]`, ""},
		"binary":        {"*2\r\n$4\r\nECHO\r\n$4\r\n\r\n\x00*\r\n", `inline=false ["ECHO" "\r\n\x00*"]`, ""},
		"empty ones":    {"*0\r\n*-1\r\n*1\r\n$0\r\n\r\n", `inline=false [""]`, ""},
		"line":          {"PING x\r\n\nset \"a b\" c\n", `inline=true ["PING x"]; inline=true [""]; inline=true ["set \"a b\" c"]`, ""},
		"long line":     {strings.Repeat("x", 41), "", "ERR Protocol error: too big inline request"},
		"longest line":  {strings.Repeat("x", 40) + "\n", fmt.Sprintf("inline=true [%q]", strings.Repeat("x", 40)), ""},
		"many args":     {"*9\r\n", "", "ERR Protocol error: 9 arguments in one request are more than the 8 that this gate takes"},
		"long":          {"*2\r\n$150\r\n" + strings.Repeat("x", 150) + "\r\n$60\r\n", "", "ERR Protocol error: a request of more than 200 bytes; this gate takes no longer ones"},
		"no dollar":     {"*1\r\n:1\r\n", "", "ERR Protocol error: expected '$', got ':'"},
		"null argument": {"*1\r\n$-1\r\n", "", "ERR Protocol error: invalid bulk length"},
		"zeros":         {"*01\r\n", "", "ERR Protocol error: invalid multibulk length"},
		"plus":          {"*+1\r\n", "", "ERR Protocol error: invalid multibulk length"},
		"minus zero":    {"*1\r\n$-0\r\n", "", "ERR Protocol error: invalid bulk length"},
		"huge":          {"*99999999999999999999\r\n", "", "ERR Protocol error: invalid multibulk length"},
		"lone CR":       {"*1\r\n$4\rxPING\r\n", "", "ERR Protocol error: invalid bulk length"},
		"longer arg":    {"*1\r\n$4\r\nPINGX\r\n", "", "ERR Protocol error: expected CRLF after an argument"},
		"CR and more":   {"*1\r\n$4\r\nPING\rX", "", "ERR Protocol error: expected CRLF after an argument"},
		"half":          {"*2\r\n$3\r\nGET\r\n$1\r\n", "", "unexpected EOF"},
	} {
		for piece := 1; piece <= len(c.stream); piece++ {
			found, err := scanned([]byte(c.stream), piece, small)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if got := strings.Join(found, "; "); got != c.found || text != c.err {
				t.Errorf("%s in pieces of %d: %s and %q, want %s and %q", name, piece, got, text, c.found, c.err)
			}
		}
	}
}

// FuzzScanner holds the scanner to the codec of the registry's own front door, which copies: the same requests, refused or
// not, in whatever pieces they come.
func FuzzScanner(f *testing.F) {
	f.Add([]byte("*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"), 3)
	f.Add([]byte("*0\r\n*-1\r\n*1\r\n$12\r\nabcdefghijkl\r\n"), 1)
	f.Add([]byte("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$-1\r\n"), 2)
	f.Add([]byte("*1\r\n$00\r\n\r\n"), 2)
	f.Fuzz(func(t *testing.T, stream []byte, piece int) {
		piece = max(1, piece%64)
		found, err := scanned(stream, piece, small)
		again, err2 := scanned(stream, len(stream)+1, small)
		if fmt.Sprint(found, err) != fmt.Sprint(again, err2) {
			t.Fatalf("in pieces of %d: %q %v, else: %q %v", piece, found, err, again, err2)
		}
		r := resp.NewReader(bytes.NewReader(stream), resp.Limits{Args: small.Args, ArgLen: small.Request, Command: small.Request, Inline: small.Inline})
		for i := 0; ; i++ {
			args, err3 := r.Next()
			if err3 != nil {
				var over *resp.LimitError
				if i < len(found) && !strings.HasPrefix(found[i], "inline=true") && !errors.As(err3, &over) {
					t.Fatalf("request %d is %s, and the codec says %v", i, found[i], err3)
				}
				return
			}
			if i < len(found) && strings.HasPrefix(found[i], "inline=true") {
				return // lines are not taken apart here
			}
			var over *ProtocolError
			switch want := fmt.Sprintf("inline=false %q", args); {
			case i < len(found) && found[i] != want:
				t.Fatalf("request %d is %s, want %s", i, found[i], want)
			case i >= len(found) && !(errors.As(err, &over) && strings.Contains(err.Error(), "this gate takes")):
				t.Fatalf("request %d, %s, was not found: %v", i, want, err)
			case i >= len(found):
				return
			}
		}
	})
}

func TestScannerKeepsNoMemory(t *testing.T) {
	s := NewScanner(DefaultLimits())
	var long []byte
	long = fmt.Appendf(long, "*%d\r\n", 5000)
	for range 5000 {
		long = append(long, "$1\r\nx\r\n"...)
	}
	if args, size, err := s.Scan(long); len(args) != 5000 || size != len(long) || err != nil {
		t.Fatal(len(args), size, err)
	}
	s.Shrink()
	if cap(s.args) != 0 || cap(s.spans) != 0 {
		t.Errorf("%d and %d are kept", cap(s.args), cap(s.spans))
	}
	short := []byte("*3\r\n$3\r\nSET\r\n$5\r\nkey:1\r\n$2\r\nxy\r\n")
	if n := testing.AllocsPerRun(100, func() {
		if args, size, err := s.Scan(short); len(args) != 3 || size != len(short) || err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a request", n)
	}
}

func BenchmarkScanner(b *testing.B) {
	request := fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000001\r\n$64\r\n%064d\r\n", 1)
	stream := bytes.Repeat(request, 32)
	s := NewScanner(DefaultLimits())
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += 32 {
		for buf := stream; len(buf) > 0; {
			_, size, err := s.Scan(buf)
			if err != nil || size == 0 {
				b.Fatal(err)
			}
			buf = buf[size:]
		}
	}
}
