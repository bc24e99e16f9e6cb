package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/gate/differ/program"
)

func TestReadReply(t *testing.T) {
	for _, reply := range []string{"+OK\r\n", "-ERR x\r\n", ":-1\r\n", "$-1\r\n", "$0\r\n\r\n", "$4\r\na\r\nb\r\n", "*-1\r\n", "*0\r\n", "*2\r\n:1\r\n*1\r\n$1\r\nx\r\n",
		"_\r\n", ",1.5\r\n", "#t\r\n", "(123\r\n", "=7\r\ntxt:abc\r\n", "%1\r\n+k\r\n~1\r\n:1\r\n", ">2\r\n+message\r\n+x\r\n", "|1\r\n+ttl\r\n:1\r\n*1\r\n:2\r\n"} {
		r := bufio.NewReader(strings.NewReader(reply + "+next\r\n"))
		if got, err := readReply(r); err != nil || string(got) != reply {
			t.Errorf("of %q was read %q, %v", reply, got, err)
		}
		if next, err := r.ReadString('\n'); err != nil || next != "+next\r\n" {
			t.Errorf("behind %q came %q, %v", reply, next, err)
		}
	}
	for _, wrong := range []string{"", "x\r\n", "+OK\n", "$x\r\n", "$-2\r\n", "*x\r\n", "*2\r\n:1\r\n", "$4\r\nab"} {
		if got, err := readReply(bufio.NewReader(strings.NewReader(wrong))); err == nil {
			t.Errorf("%q is taken for the reply %q", wrong, got)
		}
	}
}

func TestSame(t *testing.T) {
	for _, c := range []struct {
		name, queued, a, b string
		want               bool
	}{
		{"GET", "", "$1\r\na\r\n", "$1\r\na\r\n", true},
		{"GET", "", "$1\r\na\r\n", "$1\r\nb\r\n", false},
		{"GET", "", "$1\r\na\r\n", "$-1\r\n", false},
		{"LRANGE", "", "*2\r\n:1\r\n:2\r\n", "*2\r\n:2\r\n:1\r\n", false},
		{"SMEMBERS", "", "*2\r\n:1\r\n:2\r\n", "*2\r\n:2\r\n:1\r\n", true},
		{"SMEMBERS", "", "*2\r\n:1\r\n:2\r\n", "*2\r\n:2\r\n:2\r\n", false},
		{"SMEMBERS", "", "*2\r\n:1\r\n:2\r\n", "~2\r\n:2\r\n:1\r\n", false},
		{"TTL", "", ":500\r\n", ":501\r\n", true},
		{"TTL", "", ":500\r\n", ":-1\r\n", false},
		{"TTL", "", ":500\r\n", ":90000\r\n", false},
		{"XINFO|STREAM", "", "*2\r\n+idle\r\n:1\r\n", "*2\r\n+idle\r\n:5\r\n", true},
		{"XINFO|STREAM", "", "*2\r\n+idle\r\n:1\r\n", "*2\r\n+long\r\n:5\r\n", false},
		{"RANDOMKEY", "", "$1\r\na\r\n", "$2\r\nbb\r\n", true},
		{"RANDOMKEY", "", "$1\r\na\r\n", "-ERR\r\n", false},
		{"RANDOMKEY", "", "-ERR a\r\n", "-ERR b\r\n", false},
		{"SRANDMEMBER", "", "*1\r\n:1\r\n", "*1\r\n:2\r\n", true},
		{"SRANDMEMBER", "", "*1\r\n:1\r\n", "*0\r\n", false},
		{"EXEC", "GET SMEMBERS", "*2\r\n:1\r\n*2\r\n:1\r\n:2\r\n", "*2\r\n:1\r\n*2\r\n:2\r\n:1\r\n", true},
		{"EXEC", "SMEMBERS GET", "*2\r\n*0\r\n:2\r\n", "*2\r\n*0\r\n:1\r\n", false},
		{"EXEC", "GET", "*1\r\n:1\r\n", "_\r\n", false},
	} {
		if got := same(c.name, strings.Fields(c.queued), []byte(c.a), []byte(c.b)); got != c.want {
			t.Errorf("%s %s: %q and %q are the same: %v", c.name, c.queued, c.a, c.b, got)
		}
	}
}

// A transaction's replies are compared by what was queued, and nothing of it stays behind.
func TestTransactionsAreFollowed(t *testing.T) {
	r := &run{out: io.Discard, seen: map[string]int{}, transactions: map[int]*transaction{}}
	list := []program.Command{{Name: "MULTI"}, {Name: "SMEMBERS"}, {Name: "GET"}, {Name: "EXEC"}, {Name: "GET"}}
	replies := func(exec string) answer {
		return answer{replies: [][]byte{[]byte("+OK\r\n"), []byte("+QUEUED\r\n"), []byte("-ERR\r\n"), []byte(exec), []byte(":1\r\n")}}
	}
	if !r.compare(1, 0, list, false, replies("*1\r\n*2\r\n:1\r\n:2\r\n"), replies("*1\r\n*2\r\n:2\r\n:1\r\n")) || r.commands != 5 || len(r.transactions) != 0 {
		t.Errorf("the order of a set makes a difference; %d commands, %v", r.commands, r.transactions)
	}
	if r.compare(1, 0, list, false, replies("*1\r\n:1\r\n"), replies("*1\r\n:2\r\n")) {
		t.Error("a difference within a transaction is not seen")
	}
	short := replies("_\r\n")
	short.replies = short.replies[:4]
	if r.compare(1, 0, list, false, replies("_\r\n"), short) {
		t.Error("a missing reply is not seen")
	}
	if r.compare(1, 0, list, false, replies("_\r\n"), answer{replies: replies("_\r\n").replies, err: io.EOF}) {
		t.Error("the end of a connection is not seen")
	}
}

// The same seed is the same program, another is another; all of it goes over the wire as it should.
func TestProgramsRepeat(t *testing.T) {
	text := func(seed uint64) string {
		g, err := program.New(seed, connections, func(string) bool { return true }, func(string) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		kinds := map[string]int{}
		for range 300 {
			step := g.Next()
			fmt.Fprintf(&b, "%+v\n", step)
			b.Write(encode(step.Commands, step.Inline))
			for _, c := range step.Commands {
				kinds[c.Name]++
				if want, _, _ := strings.Cut(c.Name, "|"); !strings.EqualFold(c.Args[0], want) {
					t.Errorf("%s is called %q", c.Name, c.Args)
				}
				if c.Name == "SPOP" {
					t.Errorf("%q is left out", c.Args)
				}
			}
		}
		if len(kinds) < 200 {
			t.Errorf("there are only %d different commands", len(kinds))
		}
		return b.String()
	}
	one := text(1)
	if again := text(1); again != one {
		t.Error("a seed is not one program")
	}
	if one == text(2) {
		t.Error("two seeds are one program")
	}
}
