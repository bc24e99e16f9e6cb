package resp

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestReplies(t *testing.T) {
	for name, c := range map[string]struct {
		write        func(w *Writer)
		resp2, resp3 string
	}{
		"simple":       {func(w *Writer) { w.Simple("OK") }, "+OK\r\n", "+OK\r\n"},
		"error":        {func(w *Writer) { w.Error("ERR no such scope") }, "-ERR no such scope\r\n", "-ERR no such scope\r\n"},
		"two lines":    {func(w *Writer) { w.Simple("a\r\n+b"); w.Error("\nc\r") }, "+a  +b\r\n- c \r\n", "+a  +b\r\n- c \r\n"},
		"int":          {func(w *Writer) { w.Int(math.MinInt64) }, ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"},
		"bulk":         {func(w *Writer) { w.Bulk([]byte("a\r\nb")) }, "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"},
		"empty bulk":   {func(w *Writer) { w.Bulk(nil); w.BulkString("") }, "$0\r\n\r\n$0\r\n\r\n", "$0\r\n\r\n$0\r\n\r\n"},
		"null":         {func(w *Writer) { w.Null() }, "$-1\r\n", "_\r\n"},
		"array":        {func(w *Writer) { w.Array(2); w.Int(1); w.Int(2) }, "*2\r\n:1\r\n:2\r\n", "*2\r\n:1\r\n:2\r\n"},
		"empty array":  {func(w *Writer) { w.Array(0) }, "*0\r\n", "*0\r\n"},
		"map":          {func(w *Writer) { w.Map(1); w.BulkString("k"); w.Int(1) }, "*2\r\n$1\r\nk\r\n:1\r\n", "%1\r\n$1\r\nk\r\n:1\r\n"},
		"set":          {func(w *Writer) { w.Set(1); w.Int(1) }, "*1\r\n:1\r\n", "~1\r\n:1\r\n"},
		"push":         {func(w *Writer) { w.Push(1); w.Int(1) }, "*1\r\n:1\r\n", ">1\r\n:1\r\n"},
		"bool":         {func(w *Writer) { w.Bool(true); w.Bool(false) }, ":1\r\n:0\r\n", "#t\r\n#f\r\n"},
		"double":       {func(w *Writer) { w.Double(-1.5) }, "$4\r\n-1.5\r\n", ",-1.5\r\n"},
		"long double":  {func(w *Writer) { w.Double(-2.2250738585072014e-308) }, "$24\r\n-2.2250738585072014e-308\r\n", ",-2.2250738585072014e-308\r\n"},
		"no number":    {func(w *Writer) { w.Double(math.NaN()) }, "$3\r\nnan\r\n", ",nan\r\n"},
		"infinity":     {func(w *Writer) { w.Double(math.Inf(1)) }, "$3\r\ninf\r\n", ",inf\r\n"},
		"the other":    {func(w *Writer) { w.Double(math.Inf(-1)) }, "$4\r\n-inf\r\n", ",-inf\r\n"},
		"change":       {func(w *Writer) { w.SetProto(3); w.Null(); w.SetProto(2); w.Null() }, "_\r\n$-1\r\n", "_\r\n$-1\r\n"},
		"no such RESP": {func(w *Writer) { w.SetProto(4); w.Null() }, "$-1\r\n", "$-1\r\n"},
	} {
		for proto, want := range map[int]string{2: c.resp2, 3: c.resp3} {
			var out bytes.Buffer
			w := NewWriter(&out)
			if w.Proto() != 2 {
				t.Fatalf("a new writer speaks RESP%d", w.Proto())
			}
			if w.SetProto(proto); w.Proto() != proto {
				t.Fatalf("%d, want %d", w.Proto(), proto)
			}
			c.write(w)
			if out.Len() != 0 || w.Buffered() != len(want) {
				t.Errorf("%s, RESP%d: %d bytes written before the flush, %d buffered, want %d", name, proto, out.Len(), w.Buffered(), len(want))
			}
			if err := w.Flush(); err != nil || out.String() != want || w.Buffered() != 0 {
				t.Errorf("%s, RESP%d: %q, %v; want %q", name, proto, out.String(), err, want)
			}
		}
	}
}

// decode reads one value, strictly, and returns it in a form of one line.
func decode(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	text, whole := strings.CutSuffix(line, "\r\n")
	if !whole || text == "" || strings.Contains(text, "\r") {
		return "", fmt.Errorf("bad line %q", line)
	}
	kind, rest := text[0], text[1:]
	switch kind {
	case '+', '-', '#', ',', '_':
		return text, nil
	}
	n, err := strconv.Atoi(rest)
	switch {
	case err != nil:
		return "", err
	case kind == ':':
		return text, nil
	case text == "$-1":
		return "_", nil
	case kind == '$':
		data := make([]byte, n+2)
		if _, err := io.ReadFull(in, data); err != nil || string(data[n:]) != "\r\n" {
			return "", fmt.Errorf("bad bulk string %q: %w", data, err)
		}
		return strconv.Quote(string(data[:n])), nil
	case kind == '%':
		n *= 2
	case !strings.ContainsRune("*~>", rune(kind)):
		return "", fmt.Errorf("bad type %q", line)
	}
	all := string(kind)
	for range n {
		one, err := decode(in)
		if err != nil {
			return "", err
		}
		all += " " + one
	}
	return all + ";", nil
}

func genText() *rapid.Generator[string] {
	return rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })
}

// write writes a random value, and returns how decode must name it.
func write(t *rapid.T, w *Writer, depth int) string {
	resp3 := w.Proto() == 3
	text := genText()
	oneLine := strings.NewReplacer("\r", " ", "\n", " ")
	pick := func(three, two string) string {
		if resp3 {
			return three
		}
		return two
	}
	aggregate := func(three string, n int) string {
		all := pick(three, "*")
		for range n {
			all += " " + write(t, w, depth+1)
		}
		return all + ";"
	}
	n := rapid.IntRange(0, 3).Draw(t, "n")
	kinds := 11
	if depth > 3 {
		kinds = 7 // without aggregates
	}
	switch rapid.IntRange(0, kinds).Draw(t, "kind") {
	case 0:
		s := text.Draw(t, "simple")
		w.Simple(s)
		return "+" + oneLine.Replace(s)
	case 1:
		s := text.Draw(t, "error")
		w.Error(s)
		return "-" + oneLine.Replace(s)
	case 2:
		n := rapid.Int64().Draw(t, "int")
		w.Int(n)
		return ":" + strconv.FormatInt(n, 10)
	case 3:
		s := text.Draw(t, "bulk")
		w.Bulk([]byte(s))
		return strconv.Quote(s)
	case 4:
		s := strings.Repeat(text.Draw(t, "bulk string"), rapid.SampledFrom([]int{1, 1, 10_000}).Draw(t, "times"))
		w.BulkString(s)
		return strconv.Quote(s)
	case 5:
		w.Null()
		return "_"
	case 6:
		b := rapid.Bool().Draw(t, "bool")
		w.Bool(b)
		return pick(map[bool]string{true: "#t", false: "#f"}[b], map[bool]string{true: ":1", false: ":0"}[b])
	case 7:
		f := rapid.Float64().Draw(t, "double")
		w.Double(f)
		s := strings.ToLower(strings.TrimPrefix(strconv.FormatFloat(f, 'g', -1, 64), "+"))
		return pick(","+s, strconv.Quote(s))
	case 8:
		w.Array(n)
		return aggregate("*", n)
	case 9:
		w.Map(n)
		return aggregate("%", 2*n)
	case 10:
		w.Set(n)
		return aggregate("~", n)
	default:
		w.Push(n)
		return aggregate(">", n)
	}
}

func TestRepliesAreDecoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var out bytes.Buffer
		w := NewWriter(&out)
		w.SetProto(rapid.IntRange(2, 3).Draw(t, "proto"))
		var want []string
		for range rapid.IntRange(1, 5).Draw(t, "values") {
			want = append(want, write(t, w, 0))
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(&out)
		for _, v := range want {
			if got, err := decode(in); err != nil || got != v {
				t.Fatalf("%.200s, %v; want %.200s", got, err, v)
			}
		}
		if n := in.Buffered(); n != 0 {
			t.Fatalf("%d bytes too many", n)
		}
	})
}

// failing takes some bytes, and fails from then on. It counts the calls.
type failing struct {
	left, calls int
	err         error
}

func (f *failing) Write(b []byte) (int, error) {
	f.calls++
	if len(b) <= f.left {
		f.left -= len(b)
		return len(b), nil
	}
	return f.left, f.err
}

func TestFirstErrorStays(t *testing.T) {
	gone := errors.New("gone")
	for given, want := range map[error]error{gone: gone, nil: io.ErrShortWrite} {
		to := &failing{left: 5, err: given}
		w := NewWriter(to)
		w.Simple("OK")
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		w.Simple("OK")
		if w.Err() != nil {
			t.Fatal("an error before the flush")
		}
		if err := w.Flush(); !errors.Is(err, want) || !errors.Is(w.Err(), want) {
			t.Errorf("%v, %v; want %v", err, w.Err(), want)
		}
		to.left = 1 << 30
		w.BulkString(strings.Repeat("x", 1<<20))
		w.Simple("OK")
		if err := w.Flush(); !errors.Is(err, want) || to.calls != 2 || w.Buffered() != 0 {
			t.Errorf("after the error: %v, %d calls of Write, %d buffered", err, to.calls, w.Buffered())
		}
	}
}

// Large replies go out by themselves, in pieces: the buffer does not hold them.
func TestLargeReplies(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out)
	for i := 0; i < 10_000; i++ {
		if w.Simple("0123456789"); w.Buffered() > flushSize {
			t.Fatalf("%d bytes buffered", w.Buffered())
		}
	}
	big := strings.Repeat("y", 10<<20)
	w.Bulk([]byte(big))
	w.BulkString(big)
	if cap(w.buf) > 4*flushSize {
		t.Errorf("a buffer of %d bytes", cap(w.buf))
	}
	if err := w.Flush(); err != nil || cap(w.buf) > keepBuffer {
		t.Errorf("%v, a buffer of %d bytes is kept", err, cap(w.buf))
	}
	one := "$10485760\r\n" + big + "\r\n"
	if want := strings.Repeat("+0123456789\r\n", 10_000) + one + one; out.String() != want {
		t.Errorf("%d bytes differ from the %d that were meant", out.Len(), len(want))
	}
}

// reply is a reply with every kind of value.
func reply(w *Writer, data []byte) {
	w.Map(3)
	w.BulkString("prefix")
	w.Bulk(data)
	w.Simple("OK")
	w.Int(1234567)
	w.Null()
	w.Set(1)
	w.Bool(true)
	w.Double(1.25e-7)
	w.Error("MISDIRECTED writer is 10.0.0.1:6379")
	w.Push(1)
	w.Array(0)
}

func TestWriterAllocatesNothing(t *testing.T) {
	data := []byte("app:billing:")
	for _, proto := range []int{2, 3} {
		w := NewWriter(io.Discard)
		w.SetProto(proto)
		allocs := testing.AllocsPerRun(100, func() {
			reply(w, data)
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 {
			t.Errorf("RESP%d: %v allocations in a reply", proto, allocs)
		}
	}
}
