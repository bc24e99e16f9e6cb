package upstream

import (
	"bufio"
	"reflect"
	"strings"
	"testing"
)

func TestReplies(t *testing.T) {
	for text, want := range map[string]Reply{
		"+OK\r\n":             {Kind: '+', Text: "OK"},
		"-ERR no\r\n":         {Kind: '-', Text: "ERR no"},
		":-7\r\n":             {Kind: ':', Text: "-7", Int: -7},
		"$3\r\na\r\n\r\n":     {Kind: '$', Text: "a\r\n"},
		"$-1\r\n":             {Kind: '$', Null: true},
		"*-1\r\n":             {Kind: '*', Null: true},
		"*2\r\n:1\r\n*0\r\n":  {Kind: '*', Items: []Reply{{Kind: ':', Text: "1", Int: 1}, {Kind: '*'}}},
		"*1\r\n$1\r\nx\r\n+y": {Kind: '*', Items: []Reply{{Kind: '$', Text: "x"}}},
	} {
		if got, err := readReply(bufio.NewReader(strings.NewReader(text))); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "+OK", "\r\n", "+\n", "?x\r\n", ":x\r\n", "$x\r\n", "$-2\r\n", "$3\r\nab", "$1\r\naXY", "$99999999999\r\n", "*99999999\r\n",
		"*2\r\n:1\r\n", strings.Repeat("*1\r\n", maxDepth+2), "+" + strings.Repeat("x", 2*maxLine) + "\r\n"} {
		if got, err := readReply(bufio.NewReader(strings.NewReader(text))); err == nil {
			t.Errorf("%.40q is taken for %+v", text, got)
		}
	}
}

func TestAny(t *testing.T) {
	r := Reply{Kind: '*', Items: []Reply{{Kind: ':', Text: "1", Int: 1}, {Kind: '$', Null: true}, {Kind: '+', Text: "x"}, {Kind: '*'}}}
	if got, want := r.Any(), []any{int64(1), nil, "x", []any{}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%#v", got)
	}
}

// What is not a reply ends nothing, and costs no more memory than came.
func FuzzReply(f *testing.F) {
	for _, text := range []string{"+OK\r\n", "$3\r\nabc\r\n", "*2\r\n:1\r\n$-1\r\n", "$67108864\r\nx"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReader(strings.NewReader(string(data)))
		for {
			got, err := readReply(r)
			if err != nil {
				return
			}
			if len(got.Text) > len(data) || len(got.Items) > len(data) {
				t.Fatalf("%d bytes became %d bytes and %d items", len(data), len(got.Text), len(got.Items))
			}
		}
	})
}

func TestClients(t *testing.T) {
	all, err := parseClients("id=3 addr=127.0.0.1:5 laddr=x fd=8 name=a:b age=1\nid=4 addr=/tmp/s:0 name= user=default\n\n")
	if want := []client{{3, "127.0.0.1:5", "a:b"}, {4, "/tmp/s:0", ""}}; err != nil || !reflect.DeepEqual(all, want) {
		t.Errorf("%+v, %v", all, err)
	}
	for _, bad := range []string{"addr=1 name=x\n", "id=x name=y\n"} {
		if got, err := parseClients(bad); err == nil {
			t.Errorf("%q is %+v", bad, got)
		}
	}
}

func TestServers(t *testing.T) {
	for text, want := range map[string]Server{
		"redis_version:7.0.15\r\nrun_id:r\r\naof_enabled:1\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n": {Name: "redis", Version: "7.0.15", Run: "r", AOF: true},
		"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\nmaxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\n": {Name: "valkey", Version: "8.1.0",
			MaxMemory: 100, Evicts: "allkeys-lru"},
		"maxmemory:100\nmaxmemory_policy:noeviction": {Name: "redis", MaxMemory: 100},
	} {
		if got := serverOf(parseInfo(text)); got != want {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
