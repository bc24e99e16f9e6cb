package upstream

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Bounds of a reply. The longest is CLIENT LIST of a store with tens of thousands of connections, some 400 bytes each.
const (
	maxText  = 64 << 20
	maxItems = 1 << 20
	maxDepth = 16
	maxLine  = 64 << 10
)

// Reply is a reply of the store in RESP2.
type Reply struct {
	Kind  byte // '+', '-', ':', '$' or '*'
	Null  bool // of kind '$' or '*'
	Text  string
	Int   int64   // of kind ':'
	Items []Reply // of kind '*'
}

// RefusedError is an error that the store answered.
type RefusedError struct {
	Command string // the first words of what was asked, without arguments that may be secret
	Text    string // begins with the code, as in "NOAUTH Authentication required."
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the store refused %s: %s", e.Command, e.Text)
}

// Code is the first word, such as NOPERM.
func (e *RefusedError) Code() string {
	code, _, _ := strings.Cut(e.Text, " ")
	return code
}

// passing tells whether a refusal passes by itself: the store loads its data, or runs a script.
func (e *RefusedError) passing() bool {
	switch e.Code() {
	case "LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN":
		return true
	}
	return false
}

// errReply is what is wrong with bytes that are no reply in RESP2: the address is not that of a Redis-protocol server.
var errReply = errors.New("what came is no reply of the Redis protocol")

// readReply reads one reply.
func readReply(r *bufio.Reader) (Reply, error) { return readNested(r, maxDepth) }

func readNested(r *bufio.Reader, depth int) (Reply, error) {
	line, err := readLine(r)
	if err != nil {
		return Reply{}, err
	}
	out := Reply{Kind: line[0], Text: line[1:]}
	switch out.Kind {
	case '+', '-':
		return out, nil
	case ':':
		out.Int, err = strconv.ParseInt(out.Text, 10, 64)
	case '$':
		err = out.readBulk(r)
	case '*':
		err = out.readItems(r, depth)
	default:
		err = fmt.Errorf("%w: it begins with %q", errReply, line[:1])
	}
	return out, err
}

func readLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if errors.Is(err, bufio.ErrBufferFull) && len(line) < maxLine {
			continue
		}
		if err != nil {
			return "", err
		}
		break
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return "", fmt.Errorf("%w: a line of %d bytes", errReply, len(line))
	}
	return string(line[:len(line)-2]), nil
}

// length reads the length of a string or an array, -1 for one that is not there.
func (r *Reply) length(limit int) (int, error) {
	n, err := strconv.Atoi(r.Text)
	r.Text = ""
	if err != nil || n < -1 {
		return 0, fmt.Errorf("%w: a bad length", errReply)
	}
	if n > limit {
		return 0, fmt.Errorf("a reply of length %d; at most %d are taken here", n, limit)
	}
	r.Null = n < 0
	return n, nil
}

func (r *Reply) readBulk(in *bufio.Reader) error {
	n, err := r.length(maxText)
	if err != nil || r.Null {
		return err
	}
	var text strings.Builder // grows with what comes, not with what is announced
	if _, err := io.CopyN(&text, in, int64(n)); err != nil {
		return err
	}
	r.Text = text.String()
	var end [2]byte
	if _, err := io.ReadFull(in, end[:]); err != nil {
		return err
	}
	if string(end[:]) != "\r\n" {
		return fmt.Errorf("%w: a string that does not end where it says", errReply)
	}
	return nil
}

func (r *Reply) readItems(in *bufio.Reader, depth int) error {
	n, err := r.length(maxItems)
	if err != nil || r.Null {
		return err
	}
	if depth == 0 {
		return fmt.Errorf("%w: arrays in more than %d arrays", errReply, maxDepth)
	}
	for range n {
		item, err := readNested(in, depth-1)
		if err != nil {
			return err
		}
		r.Items = append(r.Items, item)
	}
	return nil
}

// appendCommand appends a command as an array of strings.
func appendCommand(dst []byte, args ...string) []byte {
	dst = fmt.Appendf(dst, "*%d\r\n", len(args))
	for _, a := range args {
		dst = fmt.Appendf(dst, "$%d\r\n%s\r\n", len(a), a)
	}
	return dst
}

// Any is the reply as Go's own values: string, int64, []any, and nil for what is not there.
func (r Reply) Any() any {
	switch {
	case r.Null:
		return nil
	case r.Kind == ':':
		return r.Int
	case r.Kind != '*':
		return r.Text
	}
	out := make([]any, 0, len(r.Items))
	for _, item := range r.Items {
		out = append(out, item.Any())
	}
	return out
}
