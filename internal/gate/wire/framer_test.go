package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
)

// framed is what a framer finds in a stream that comes in pieces: kind and length of each reply.
func framed(stream []byte, piece int) (found []string, err error) {
	var f Framer
	size := 0
	for rest := stream; len(rest) > 0; {
		part := rest[:min(piece, len(rest))]
		n, whole, err := f.Next(part)
		if err != nil {
			return found, err
		}
		if !whole && n != len(part) || n == 0 {
			return found, fmt.Errorf("%d of %d bytes were taken", n, len(part))
		}
		size += n
		rest = rest[n:]
		if whole {
			found = append(found, fmt.Sprintf("%c%d", f.Kind(), size))
			size = 0
		}
		if f.Begun() == whole {
			return found, fmt.Errorf("begun: %v, whole: %v", f.Begun(), whole)
		}
	}
	if size > 0 {
		found = append(found, "half")
	}
	return found, nil
}

// oracle finds replies by recursion over a whole stream. It returns what is left behind the first, or an error if there
// is none; errHalf says that bytes are missing.
func oracle(b []byte, depth int) (kind byte, rest []byte, err error) {
	line, rest, whole := bytes.Cut(b, []byte("\r\n"))
	cr := bytes.IndexByte(b, '\r')
	switch {
	case len(b) == 0 || depth > 1000:
		return 0, nil, errHalf
	case !strings.ContainsRune("+-:_#,($=!*%~>|", rune(b[0])):
		return 0, nil, errors.New("no type")
	case cr >= 0 && cr+1 < len(b) && b[cr+1] != '\n':
		return 0, nil, errors.New("lone CR")
	}
	kind = b[0]
	if strings.ContainsRune("+-:_#,(", rune(kind)) {
		if !whole {
			return kind, nil, errHalf
		}
		return kind, rest, nil
	}
	if !whole {
		return kind, nil, errHalf // or worse; the caller looks at whole ones only
	}
	n, err := strconv.ParseInt(string(line[1:]), 10, 64)
	switch {
	case err != nil || bytes.ContainsRune(line, '+'):
		return kind, nil, errors.New("no number")
	case n == -1 && (kind == '$' || kind == '*'):
		return kind, rest, nil
	case n < 0 || line[1] == '-':
		return kind, nil, errors.New("negative")
	case strings.ContainsRune("$=!", rune(kind)):
		if int64(len(rest)) < n || int64(len(rest)) < n+2 {
			return kind, nil, errHalf
		}
		if string(rest[n:n+2]) != "\r\n" {
			return kind, nil, errors.New("longer")
		}
		return kind, rest[n+2:], nil
	case kind == '%' || kind == '|':
		if n > maxOpen {
			return kind, nil, errors.New("many")
		}
		n *= 2
	}
	for range n {
		if _, rest, err = oracle(rest, depth+1); err != nil {
			return kind, nil, err
		}
	}
	if kind == '|' {
		return oracle(rest, depth+1)
	}
	return kind, rest, nil
}

var errHalf = errors.New("half a reply")

func TestFramer(t *testing.T) {
	for stream, want := range map[string]string{
		"+OK\r\n:1\r\n-ERR x\r\n":                                      "+5 :4 -8",
		"$3\r\nfoo\r\n$-1\r\n$0\r\n\r\n":                               "$9 $5 $6",
		"*2\r\n$1\r\na\r\n*1\r\n:7\r\n*-1\r\n*0\r\n":                   "*19 *5 *4",
		"%1\r\n+k\r\n*2\r\n+a\r\n+b\r\n~1\r\n#t\r\n_\r\n,1.5\r\n":      "%20 ~8 _3 ,6",
		"=5\r\ntxt:a\r\n!3\r\nERR\r\n(12345678901234567890123\r\n":     "=11 !9 (26",
		">2\r\n+message\r\n$1\r\nx\r\n+OK\r\n":                         ">21 +5",
		"|1\r\n+ttl\r\n:3\r\n$1\r\nx\r\n+OK\r\n":                       "$21 +5",
		"*2\r\n|1\r\n+a\r\n+b\r\n+x\r\n+y\r\n:2\r\n":                   "*24 :4",
		"|1\r\n+a\r\n|1\r\n+b\r\n+c\r\n+d\r\n|1\r\n+e\r\n+f\r\n:1\r\n": ":40",
		"$5\r\na\r\nbc\r\n":                                            "$11",
	} {
		for piece := 1; piece <= len(stream); piece++ {
			found, err := framed([]byte(stream), piece)
			if got := strings.Join(found, " "); err != nil || got != want {
				t.Errorf("%q in pieces of %d: %s %v, want %s", stream, piece, got, err, want)
			}
		}
	}
}

func TestFramerRefuses(t *testing.T) {
	for _, stream := range []string{"x", "\r\n", "$x\r\n", "$\r\n", "$-2\r\n", "$--1\r\n", "%-1\r\n", "$1-\r\n", "$3\r\nfoobar", "$3\r\nfoo\rx", "+a\rb", "*1\rx",
		"$99999999999999999999\r\n", "*1099511627777\r\n", "%1099511627776\r\n", "|1099511627776\r\n", "*2\r\n*1099511627776\r\n", "$?\r\n"} {
		for piece := 1; piece <= len(stream); piece++ {
			var no *StreamError
			if found, err := framed([]byte(stream), piece); !errors.As(err, &no) {
				t.Errorf("%q in pieces of %d: %v %v", stream, piece, found, err)
			}
		}
	}
}

func FuzzFramer(f *testing.F) {
	f.Add([]byte("*2\r\n$1\r\na\r\n*1\r\n:7\r\n"), 1)
	f.Add([]byte("|1\r\n+a\r\n+b\r\n%1\r\n+k\r\n_\r\n"), 4)
	f.Add([]byte("$-1\r\n*-1\r\n$0\r\n\r\n"), 5)
	f.Fuzz(func(t *testing.T, stream []byte, piece int) {
		found, err := framed(stream, max(1, piece%64))
		again, err2 := framed(stream, math.MaxInt)
		if fmt.Sprint(found, err) != fmt.Sprint(again, err2) {
			t.Fatalf("in pieces: %v %v, else: %v %v", found, err, again, err2)
		}
		rest := stream
		for _, one := range found {
			if one == "half" {
				if _, _, err := oracle(rest, 0); !errors.Is(err, errHalf) {
					t.Fatalf("half of %q: %v", rest, err)
				}
				return
			}
			kind, left, err := oracle(rest, 0)
			if want := fmt.Sprintf("%c%d", kind, len(rest)-len(left)); err != nil || one != want {
				t.Fatalf("%q: %s, want %s (%v)", rest, one, want, err)
			}
			rest = left
		}
		if err != nil {
			if _, _, err := oracle(rest, 0); err == nil {
				t.Fatalf("%q is a reply and was refused", rest)
			}
		}
	})
}

func BenchmarkFramer(b *testing.B) {
	for name, reply := range map[string]string{"simple": "+OK\r\n", "bulk": "$64\r\n" + strings.Repeat("x", 64) + "\r\n",
		"array": "*10\r\n" + strings.Repeat("$8\r\nabcdefgh\r\n", 10)} {
		b.Run(name, func(b *testing.B) {
			stream := bytes.Repeat([]byte(reply), 32)
			var f Framer
			b.ReportAllocs()
			for i := 0; i < b.N; i += 32 {
				for buf := stream; len(buf) > 0; {
					n, whole, err := f.Next(buf)
					if !whole || err != nil {
						b.Fatal(err)
					}
					buf = buf[n:]
				}
			}
		})
	}
}
