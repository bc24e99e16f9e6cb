package resp

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"weak"
)

// tight are limits that a short text can be over.
func tight() Limits { return Limits{Args: 4, ArgLen: 8, Command: 20, Inline: 100} }

// readAll returns copies of all commands of in, and the error that ended them.
func readAll(in io.Reader, l Limits) ([][]string, error) {
	r := NewReader(in, l)
	var all [][]string
	for {
		args, err := r.Next()
		if err != nil {
			return all, err
		}
		command := make([]string, len(args))
		for i, a := range args {
			command[i] = string(a)
		}
		all = append(all, command)
	}
}

func TestCommands(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want [][]string
	}{
		"array":                {"*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n", [][]string{{"ECHO", "hi"}}},
		"line ends as data":    {"*1\r\n$4\r\n\r\n\r\n\r\n", [][]string{{"\r\n\r\n"}}},
		"empty argument":       {"*2\r\n$0\r\n\r\n$1\r\nx\r\n", [][]string{{"", "x"}}},
		"at every limit":       {"*4\r\n$8\r\n12345678\r\n$8\r\n12345678\r\n$4\r\n1234\r\n$0\r\n\r\n", [][]string{{"12345678", "12345678", "1234", ""}}},
		"nothing":              {"*0\r\n*-1\r\n\r\n\n \t \r\nPING\r\n*0\r\n", [][]string{{"PING"}}},
		"pipeline":             {"PING\n*1\r\n$4\r\nPING\r\nPING\r\n", [][]string{{"PING"}, {"PING"}, {"PING"}}},
		"inline, many spaces":  {"  a \t b\v\f c  \r\n", [][]string{{"a", "b\v\f", "c"}}},
		"inline at its limit":  {strings.Repeat(" ", 99) + "a\n", [][]string{{"a"}}},
		"inline at all limits": {"12345678 12345678 1234 ''\r\n", [][]string{{"12345678", "12345678", "1234", ""}}},
		"double quotes":        {`"a b" "\n\r\t\b\a" "\x41\xfF" "\q\"\\"` + "\r\n", [][]string{{"a b", "\n\r\t\b\a", "A\xff", `q"\`}}},
		"half hex escapes":     {`"\x" "\x4" "\x4g" "\xg4"` + "\r\n", [][]string{{"x", "x4", "x4g", "xg4"}}},
		"single quotes":        {`'a b' '\'' '\n"' ''` + "\r\n", [][]string{{"a b", "'", `\n"`, ""}}},
		"quote inside a word":  {`a"b c" d'e' \n` + "\r\n", [][]string{{"ab c", "de", `\n`}}},
		"other types are text": {"$3\r\n+OK :1\r\n", [][]string{{"$3"}, {"+OK", ":1"}}},
		"zero byte":            {"a\x00b c\r\n", [][]string{{"a\x00b", "c"}}},
		"names as of HTTP":     {"GET key\r\nget / HTTP/1.1\r\nPUT a HTTP/1-1\r\nECHO POST\r\nGET 'HTTP/1.1'\r\n", [][]string{{"GET", "key"}, {"get", "/", "HTTP/1.1"}, {"PUT", "a", "HTTP/1-1"}, {"ECHO", "POST"}, {"GET", "HTTP/1.1"}}},
	} {
		got, err := readAll(strings.NewReader(c.in), tight())
		if err != io.EOF || !slices.EqualFunc(got, c.want, slices.Equal) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.want)
		}
	}
}

const (
	badArray = "Protocol error: invalid multibulk length: want digits without sign or leading zero, at most 9223372036854775807, and CRLF"
	badBulk  = "Protocol error: invalid bulk length: want digits without sign or leading zero, at most 9223372036854775807, and CRLF"
	badQuote = "Protocol error: unbalanced quotes in request: close each quote, and put a space behind it"
	isHTTPd  = "Protocol error: this port speaks the Redis protocol (RESP), and this is HTTP: send it to the HTTP port"
	tooMany  = "Protocol error: invalid multibulk length: 5 arguments, a command may have 4: send fewer"
	tooLong  = "Protocol error: too big inline request: no newline within 100 bytes: send a shorter line, or an array of bulk strings"
)

// refusals are beginnings of streams that are refused by their last byte: the reader must not wait for another.
func refusals() map[string]string {
	return map[string]string{
		"*x":                             badArray,
		"*+":                             badArray,
		"* ":                             badArray,
		"*\r":                            badArray,
		"*\n":                            badArray,
		"*1\n":                           badArray,
		"*1\rx":                          badArray,
		"*01":                            badArray,
		"*00":                            badArray,
		"*-0":                            badArray,
		"*-2":                            badArray,
		"*-1\n":                          badArray,
		"*-10":                           badArray,
		"*9223372036854775808":           badArray, // the largest int64 is 9223372036854775807
		"*10000000000000000000":          badArray,
		"*18446744073709551617":          badArray, // 1 in 64 bits
		"*5\r\n":                         tooMany,
		"*9000000000000000000\r\n":       "Protocol error: invalid multibulk length: 9000000000000000000 arguments, a command may have 4: send fewer",
		"*1\r\n$9223372036854775807\r\n": "Protocol error: invalid bulk length: 9223372036854775807 bytes, an argument may have 8: send a shorter one",
		"*1\r\n$9223372036854775808":     badBulk,
		"*1\r\n$10000000000000000000":    badBulk,
		"*1\r\n$9\r\n":                   "Protocol error: invalid bulk length: 9 bytes, an argument may have 8: send a shorter one",
		"*3\r\n$8\r\n12345678\r\n$8\r\n12345678\r\n$5\r\n": "Protocol error: invalid bulk length: 21 bytes so far, the arguments of a command may have 20 together: send less in one command",
		"*1\r\n$-":                  badBulk,
		"*1\r\n$+":                  badBulk,
		"*1\r\n$01":                 badBulk,
		"*1\r\n$\r":                 badBulk,
		"*1\r\n$4\n":                badBulk,
		"*1\r\n$4\r\r":              badBulk,
		"*1\r\n$0x":                 badBulk,
		"*1\r\nx":                   "Protocol error: expected '$', got 'x'",
		"*1\r\n\r":                  `Protocol error: expected '$', got '\r'`,
		"*1\r\n\xff":                `Protocol error: expected '$', got '\xff'`,
		"*1\r\n*":                   "Protocol error: expected '$', got '*'",
		"*2\r\n$1\r\nx\r\n:":        "Protocol error: expected '$', got ':'",
		"*1\r\n$4\r\nPINGx":         "Protocol error: expected CRLF after an argument, got 'x'",
		"*1\r\n$4\r\nPING\n":        `Protocol error: expected CRLF after an argument, got '\n'`,
		"*1\r\n$4\r\nPING\rx":       "Protocol error: expected CRLF after an argument, got 'x'",
		"*1\r\n$0\r\nx":             "Protocol error: expected CRLF after an argument, got 'x'",
		"a b c d e\n":               tooMany,
		"a 123456789\r\n":           "Protocol error: invalid bulk length: 9 bytes, an argument may have 8: send a shorter one",
		"12345678 12345678 12345\n": "Protocol error: invalid bulk length: 21 bytes so far, the arguments of a command may have 20 together: send less in one command",
		strings.Repeat("x", 101):    tooLong,
		strings.Repeat(" ", 101):    tooLong,
		`"a` + "\r\n":               badQuote,
		`'a` + "\r\n":               badQuote,
		`a"` + "\n":                 badQuote,
		`"a\` + "\n":                badQuote,
		`'a\'` + "\n":               badQuote,
		`"a"b` + "\n":               badQuote,
		`'a''b'` + "\n":             badQuote,
		"POST / HTTP/1.1\r\n":       isHTTPd,
		"POST\n":                    isHTTPd,
		"post it's\r\n":             isHTTPd,
		"Host: example.com\r\n":     isHTTPd,
		" host: example.com\r\n":    isHTTPd,
		"GET / HTTP/1.1\r\n":        isHTTPd,
		"GET /'a HTTP/1.0 \n":       isHTTPd,
		"PUT / HTTP/1.1\r\n":        isHTTPd,
		"HEAD / HTTP/1.1\r\n":       isHTTPd,
		"OPTIONS * HTTP/1.1\r\n":    isHTTPd,
		"DELETE /x HTTP/1.1\r\n":    isHTTPd,
		"PRI * HTTP/2.0\r\n":        isHTTPd,
	}
}

// waits fails the test when somebody waits for more than there is.
type waits struct{ t *testing.T }

func (w waits) Read([]byte) (int, error) {
	w.t.Error("the reader asked for more")
	return 0, io.ErrClosedPipe
}

func TestRefusals(t *testing.T) {
	for in, want := range refusals() {
		for _, before := range []string{"", "PING\r\n"} {
			r := NewReader(io.MultiReader(strings.NewReader(before+in), waits{t}), tight())
			if before != "" {
				if args, err := r.Next(); err != nil || len(args) != 1 {
					t.Fatalf("%q: %q, %v", before, args, err)
				}
			}
			_, err := r.Next()
			if err == nil || err.Error() != want {
				t.Errorf("%q: %v\nwant %s", in, err, want)
			}
			if strings.ContainsAny(want, "\r\n") {
				t.Errorf("%q: more than one line: %q", in, want)
			}
			if _, again := r.Next(); again != err {
				t.Errorf("%q: after %v comes %v", in, err, again)
			}
		}
		// Only the last byte condemns it.
		if _, err := readAll(strings.NewReader(in[:len(in)-1]), tight()); err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Errorf("%q: refused before its last byte: %v", in, err)
		}
	}
}

func TestRefusalTypes(t *testing.T) {
	for in, want := range map[string]LimitError{
		"*65\r\n":                       {OverArgs, 65, 64},
		"*1\r\n$65537\r\n":              {OverArgLen, 65537, 65536},
		strings.Repeat("x", 64<<10+1):   {OverInline, 65537, 65536},
		"*9223372036854775807\r\n":      {OverArgs, 9223372036854775807, 64},
		strings.Repeat("a ", 65) + "\n": {OverArgs, 65, 64},
		"*4\r\n" + strings.Repeat("$50000\r\n"+strings.Repeat("x", 50000)+"\r\n", 2) + "$31073\r\n": {OverCommand, 131073, 131072},
	} {
		_, err := readAll(strings.NewReader(in), DefaultLimits())
		var limit *LimitError
		if !errors.As(err, &limit) || *limit != want {
			t.Errorf("%.20q: %v, want %v", in, err, &want)
		}
	}
	_, err := readAll(strings.NewReader("*x"), DefaultLimits())
	var protocol *ProtocolError
	if !errors.As(err, &protocol) || "Protocol error: "+protocol.Text != badArray {
		t.Errorf("*x: %v", err)
	}
}

func TestEnds(t *testing.T) {
	for in, want := range map[string]error{
		"": io.EOF, "PING\r\n": io.EOF, "\r\n": io.EOF, "*0\r\n": io.EOF, "*-1\r\n": io.EOF,
		"P": io.ErrUnexpectedEOF, "\r": io.ErrUnexpectedEOF, "*": io.ErrUnexpectedEOF, "*-1": io.ErrUnexpectedEOF, "*1": io.ErrUnexpectedEOF,
		"*1\r\n": io.ErrUnexpectedEOF, "*1\r\n$1\r": io.ErrUnexpectedEOF, "*1\r\n$1\r\nx": io.ErrUnexpectedEOF, "*1\r\n$1\r\nx\r": io.ErrUnexpectedEOF,
	} {
		for _, wrapped := range []io.Reader{strings.NewReader(in), iotest.DataErrReader(strings.NewReader(in))} {
			if _, err := readAll(wrapped, DefaultLimits()); err != want {
				t.Errorf("%q: %v, want %v", in, err, want)
			}
		}
	}
	if _, err := NewReader(nothing{}, DefaultLimits()).Next(); err != io.ErrNoProgress {
		t.Errorf("a Read that returns nothing: %v", err)
	}
}

type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, nil }

// A deadline on the connection ends Next, not the command.
func TestGoesOnAfterReadError(t *testing.T) {
	// The second Read times out.
	r := NewReader(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("*1\r\n$4\r\nPING\r\n"))), DefaultLimits())
	if _, err := r.Next(); err != iotest.ErrTimeout {
		t.Fatal(err)
	}
	if args, err := r.Next(); err != nil || len(args) != 1 || string(args[0]) != "PING" {
		t.Errorf("%q, %v", args, err)
	}
}

func TestSetLimits(t *testing.T) {
	small := Limits{Args: 1, ArgLen: 4, Command: 4, Inline: 4}
	r := NewReader(strings.NewReader("*2\r\n$1\r\na\r\n$1\r\nb\r\n*1\r\n$5\r\nlarge\r\n*2\r\n"), small)
	r.SetLimits(tight())
	for _, want := range []int{2, 1} {
		if args, err := r.Next(); err != nil || len(args) != want {
			t.Fatalf("%q, %v", args, err)
		}
	}
	r.SetLimits(small)
	var limit *LimitError
	if _, err := r.Next(); !errors.As(err, &limit) || limit.Max != 1 {
		t.Error(err)
	}
}

// What was looked at ahead counts for nothing once the limits are others.
func TestSetLimitsAfterAhead(t *testing.T) {
	r := NewReader(strings.NewReader(string(array("a"))+string(array("b", "c", "d"))), tight())
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	shown := 0
	r.Ahead(9, func([][]byte) { shown++ })
	r.SetLimits(Limits{Args: 2, ArgLen: 4, Command: 4, Inline: 4})
	var limit *LimitError
	if args, err := r.Next(); !errors.As(err, &limit) || limit.Max != 2 || shown != 1 {
		t.Errorf("after %d were shown: %q, %v", shown, args, err)
	}
}

// An array keeps the limits under which its header was read: they bound the buffer.
func TestSetLimitsInsideCommand(t *testing.T) {
	in, out := io.Pipe()
	defer in.Close()
	go func() {
		_, _ = out.Write([]byte("*2\r\n$8\r\n"))
		_ = out.CloseWithError(iotest.ErrTimeout)
	}()
	r := NewReader(in, tight())
	if _, err := r.Next(); err != iotest.ErrTimeout {
		t.Fatal(err)
	}
	r.SetLimits(Limits{Args: 1, ArgLen: 1, Command: 1, Inline: 1})
	r.r = strings.NewReader("12345678\r\n$8\r\n12345678\r\n*2\r\n")
	if args, err := r.Next(); err != nil || len(args) != 2 {
		t.Errorf("%q, %v", args, err)
	}
	if _, err := r.Next(); err == nil || err.Error() != strings.Replace(strings.Replace(tooMany, "5", "2", 1), "4", "1", 1) {
		t.Error(err)
	}
}

func TestBuffered(t *testing.T) {
	r := NewReader(strings.NewReader("PING\r\n*1\r\n$4\r\nPING\r\nPI"), DefaultLimits())
	for _, want := range []int{16, 2} {
		if _, err := r.Next(); err != nil || r.Buffered() != want {
			t.Errorf("%d buffered, %v; want %d", r.Buffered(), err, want)
		}
	}
}

// Arguments must not run into each other when the caller appends to one.
func TestArgumentsAreApart(t *testing.T) {
	args, err := NewReader(strings.NewReader(`"a"  b`+"\n"), DefaultLimits()).Next()
	if err != nil || len(args) != 2 {
		t.Fatalf("%q, %v", args, err)
	}
	if _ = append(args[0], 'z'); string(args[1]) != "b" {
		t.Errorf("%q", args)
	}
}

// The longest line and the longest array need buffers of their own size, whichever is longer.
func TestLongestCommandsFit(t *testing.T) {
	for _, l := range []Limits{{Args: 1, ArgLen: 20_000, Command: 20_000, Inline: 5_000}, {Args: 1, ArgLen: 5_000, Command: 5_000, Inline: 20_000}} {
		for _, in := range []string{strings.Repeat(" ", l.Inline-1) + "x\n", string(array(strings.Repeat("x", l.ArgLen)))} {
			if got, err := readAll(strings.NewReader(in), l); err != io.EOF || len(got) != 1 {
				t.Errorf("%+v: %d commands, %v", l, len(got), err)
			}
		}
	}
}

func array(args ...string) []byte {
	b := append(strconv.AppendInt([]byte("*"), int64(len(args)), 10), "\r\n"...)
	for _, a := range args {
		b = append(strconv.AppendInt(append(b, '$'), int64(len(a)), 10), "\r\n"...)
		b = append(append(b, a...), "\r\n"...)
	}
	return b
}

// The buffer grows by what arrives, up to the longest command, and is given back behind it.
func TestBufferFollowsNeed(t *testing.T) {
	big := strings.Repeat("x", 64<<10)
	stream := slices.Concat(array("PING"), array(big, big), array("PING"))
	in := &counting{r: iotest.HalfReader(bytes.NewReader(stream))}
	r := NewReader(in, DefaultLimits())
	in.each = func(before int) {
		if len(r.buf) > max(minBuffer, 2*before) || len(r.buf) > DefaultLimits().most() {
			t.Fatalf("a buffer of %d bytes after %d came", len(r.buf), before)
		}
	}
	for range 2 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.buf) < 128<<10 {
		t.Fatalf("%d bytes hold a command of 128 KiB", len(r.buf))
	}
	large := weak.Make(&r.buf[0])
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Fatal(err)
	}
	runtime.GC()
	if len(r.buf) != minBuffer || large.Value() != nil {
		t.Errorf("after a large command: a buffer of %d bytes, the large one is still held: %v", len(r.buf), large.Value() != nil)
	}
	runtime.KeepAlive(r)
}

// counting calls each before every Read, with the bytes read until then.
type counting struct {
	r    io.Reader
	n    int
	each func(before int)
}

func (c *counting) Read(b []byte) (int, error) {
	c.each(c.n)
	n, err := c.r.Read(b)
	c.n += n
	return n, err
}

// A length that was announced costs nothing until its bytes come.
func TestAnnouncedLengthAllocatesNothing(t *testing.T) {
	r := NewReader(strings.NewReader("*1000000\r\n$500000000\r\nx"), Limits{Args: 1 << 20, ArgLen: 512 << 20, Command: 512 << 20, Inline: 1})
	if _, err := r.Next(); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	if len(r.buf) != minBuffer || cap(r.spans) != 0 || cap(r.args) != 0 {
		t.Errorf("buffer %d, spans %d, args %d", len(r.buf), cap(r.spans), cap(r.args))
	}
}

func TestNextAllocatesNothing(t *testing.T) {
	for name, command := range map[string]string{"array": string(array("PING")), "inline": "PING\r\n", "10 KiB": string(array(strings.Repeat("x", 10<<10)))} {
		stream := []byte(strings.Repeat(command, 100))
		in := bytes.NewReader(stream)
		r := NewReader(in, DefaultLimits())
		allocs := testing.AllocsPerRun(20, func() {
			in.Reset(stream)
			for range 100 {
				if _, err := r.Next(); err != nil {
					t.Fatal(err)
				}
			}
		})
		if allocs != 0 {
			t.Errorf("%s: %v allocations in 100 commands", name, allocs)
		}
	}
}

// A pipeline that fills the buffer makes it grow to what is kept, and little in a row gives that back.
func TestBufferGrowsForAPipeline(t *testing.T) {
	command := array("SCOPE", "ROUTE", "app:000000000001:k", "AS", "node-1")
	in := bytes.NewReader(bytes.Repeat(command, 64<<10/len(command)))
	r := NewReader(in, DefaultLimits())
	all := func() (n int) {
		for {
			if _, err := r.Next(); err == io.EOF {
				return n
			} else if err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	if n := all(); n != 64<<10/len(command) || len(r.buf) != keepBuffer {
		t.Fatalf("%d commands, and a buffer of %d bytes, want %d", n, len(r.buf), keepBuffer)
	}
	// Each batch ends with a read that tells the end and brings nothing.
	for i := range fewInARow {
		if len(r.buf) != keepBuffer && i < fewInARow/2 {
			t.Fatalf("a buffer of %d bytes after %d reads of little", len(r.buf), 2*i)
		}
		in.Reset(command)
		if n := all(); n != 1 {
			t.Fatalf("%d commands, want 1", n)
		}
	}
	if len(r.buf) != minBuffer {
		t.Errorf("a buffer of %d bytes after %d reads of little, want %d", len(r.buf), 2*fewInARow, minBuffer)
	}
}

// Limits that have become smaller than the buffer lose nothing, and do not make it smaller than the first one.
func TestBufferAboveSmallerLimits(t *testing.T) {
	command := array("PING")
	want := 20 << 10 / len(command)
	r := NewReader(bytes.NewReader(bytes.Repeat(command, want)), DefaultLimits())
	for n := 0; ; n++ {
		_, err := r.Next()
		if err == io.EOF && n == want {
			return
		}
		if err != nil {
			t.Fatalf("after %d commands of %d: %v", n, want, err)
		}
		if len(r.buf) < minBuffer {
			t.Fatalf("a buffer of %d bytes after %d commands, want at least %d", len(r.buf), n, minBuffer)
		}
		r.SetLimits(Limits{Args: 2, ArgLen: 8, Command: 16, Inline: 8})
	}
}
