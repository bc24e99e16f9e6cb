package commands

import (
	"reflect"
	"strings"
	"testing"
)

// described is a command as COMMAND of 7.0 tells it.
func described(name string, flags string, specs ...any) []any {
	list := []any{}
	for f := range strings.FieldsSeq(flags) {
		list = append(list, f)
	}
	return []any{name, int64(-2), list, int64(1), int64(1), int64(1), []any{"@x"}, []any{}, append([]any{}, specs...), []any{}}
}

// index is a key specification: one key at the place.
func indexSpec(at int64, flags ...any) []any {
	return []any{"flags", flags, "begin_search", []any{"type", "index", "spec", []any{"index", at}},
		"find_keys", []any{"type", "range", "spec", []any{"lastkey", int64(0), "keystep", int64(1), "limit", int64(0)}}}
}

func check(t *testing.T, reply ...any) (*Checked, Differences) {
	t.Helper()
	upstream, err := Describe(reply)
	if err != nil {
		t.Fatal(err)
	}
	checked, diff := Check(upstream)
	diff.Missing = nil
	return checked, diff
}

func find(t *testing.T, checked *Checked, line string) *Command {
	t.Helper()
	c, ok := checked.Find(args(line))
	if !ok {
		t.Fatalf("%s is not found", line)
	}
	return c
}

func TestCheckAgrees(t *testing.T) {
	container := described("object", "")
	container[9] = []any{described("object|encoding", "readonly", indexSpec(2, "RO"))}
	_, diff := check(t, described("get", "readonly fast", indexSpec(1, "RO", "access")), described("set", "write", indexSpec(1, "RW")),
		described("flushall", "write"), container, nil)
	if diff.String() != "none" {
		t.Errorf("differences: %s", diff)
	}
}

func TestCheckRefusesWritesThatItDoesNotKnow(t *testing.T) {
	container := described("vset", "")
	container[9] = []any{described("vset|put", "write", indexSpec(2, "RW")), described("vset|look", "readonly", indexSpec(2, "RO"))}
	checked, diff := check(t, described("json.set", "write", indexSpec(1, "RW")), described("json.get", "readonly", indexSpec(1, "RO")), described("odd", "admin"), container)
	want := Differences{Refused: []string{"JSON.SET", "ODD", "VSET|PUT"}, Passed: []string{"JSON.GET", "VSET|LOOK"}}
	if !reflect.DeepEqual(diff, want) {
		t.Errorf("differences %+v, want %+v", diff, want)
	}
	if c := find(t, checked, "Json.Set k $ 1"); c.Policy != Refuse || !strings.Contains(c.Why, "'json.set'") {
		t.Errorf("JSON.SET is %+v", c)
	}
	if c := find(t, checked, "VSET put k"); c.Policy != Refuse {
		t.Errorf("VSET PUT is %+v", c)
	}
	c := find(t, checked, "vset LOOK k")
	keys, err := c.AppendKeys(nil, args("vset LOOK k"))
	if c.Policy != Pass || err != nil || !reflect.DeepEqual(keys, []Key{{At: 2}}) {
		t.Errorf("VSET LOOK is %+v with keys %v, %v", c, keys, err)
	}
	if _, ok := checked.Find(args("VSET other")); ok {
		t.Error("a subcommand that nobody described is found")
	}
	if find(t, checked, "VSET").Policy != Pass {
		t.Error("without a subcommand the store should answer")
	}
}

func TestCheckTakesTheStricter(t *testing.T) {
	checked, diff := check(t,
		described("get", "write", indexSpec(1, "RO")),                      // writes after all
		described("set", "readonly", indexSpec(1, "RO")),                   // says that it only reads
		described("append", "write", indexSpec(2, "RW")),                   // its key stands elsewhere
		described("incr", "write"),                                         // it has no keys
		described("copy", "write", indexSpec(1, "RW"), indexSpec(2, "RW")), // writes the source too
		described("sort", "write", indexSpec(1, "RW"), []any{}, []any{}),   // and so does this
		described("flushall", "readonly"), described("ping", "write"))
	want := Differences{Stricter: []string{"COPY", "GET", "PING"}, Asked: []string{"APPEND", "INCR", "SORT"}}
	if !reflect.DeepEqual(diff, want) {
		t.Errorf("differences %+v, want %+v", diff, want)
	}
	for line, policy := range map[string]Policy{"GET k": Write, "SET k v": Write, "APPEND x k": Ask, "INCR k": Ask, "COPY a b": Write, "FLUSHALL": Refuse, "PING": Write} {
		if c := find(t, checked, line); c.Policy != policy {
			t.Errorf("%s has policy %d, want %d", line, c.Policy, policy)
		}
	}
	for _, line := range []string{"GET k", "SET k v", "COPY k b"} {
		keys, err := find(t, checked, line).AppendKeys(nil, args(line))
		if err != nil || len(keys) == 0 || !keys[0].Writes {
			t.Errorf("%s: keys %v, %v", line, keys, err)
		}
	}
	// The table itself has not changed.
	if c := find(t, table(t), "GET k"); c.Policy != Pass {
		t.Errorf("GET of another table is %+v", c)
	}
}

func TestCheckOfAServerBefore7(t *testing.T) {
	row := func(name, flags string, first, last, step int64) []any {
		return append(described(name, flags)[:3:3], first, last, step)
	}
	checked, diff := check(t, row("set", "write denyoom", 1, 1, 1), row("mset", "write", 1, -1, 2), row("bitop", "write", 2, -1, 1), row("rename", "write", 1, 2, 1),
		row("blpop", "write", 1, -2, 1), row("eval", "noscript movablekeys", 0, 0, 0), row("zunionstore", "write movablekeys", 0, 0, 0),
		row("sort", "write movablekeys", 1, 1, 1), row("georadius", "write movablekeys", 1, 1, 1), row("append", "write", 2, 2, 1), row("object", "readonly", 2, 2, 1))
	if want := (Differences{Refused: []string{"APPEND"}}); !reflect.DeepEqual(diff, want) {
		t.Errorf("differences %+v, want %+v", diff, want)
	}
	// Such a server cannot be asked where keys are.
	if c := find(t, checked, "APPEND x k"); c.Policy != Refuse || c.Why == "" {
		t.Errorf("APPEND is %+v", c)
	}
}

// Of COPY the gate must see the database, whatever the store says of the keys.
func TestCheckNeverAsksAboutCopy(t *testing.T) {
	checked, diff := check(t, described("copy", "write", indexSpec(1, "RO")))
	if want := (Differences{Refused: []string{"COPY"}}); !reflect.DeepEqual(diff, want) {
		t.Errorf("differences %+v, want %+v", diff, want)
	}
	if c := find(t, checked, "COPY a b"); c.Policy != Refuse || c.Why == "" {
		t.Errorf("COPY is %+v", c)
	}
}

func TestDescribeReadsMaps(t *testing.T) {
	row := described("zunionstore", "write")
	row[8] = []any{
		map[any]any{"flags": []any{"OW", "update"}, "begin_search": map[any]any{"type": "index", "spec": map[any]any{"index": int64(1)}},
			"find_keys": map[any]any{"type": "range", "spec": map[any]any{"lastkey": int64(0), "keystep": int64(1), "limit": int64(0)}}},
		map[any]any{"flags": []any{"RO"}, "begin_search": map[any]any{"type": "index", "spec": map[any]any{"index": int64(2)}},
			"find_keys": map[any]any{"type": "keynum", "spec": map[any]any{"keynumidx": int64(0), "firstkey": int64(1), "keystep": int64(1)}}},
	}
	keyword := described("xread", "readonly", []any{"flags", []any{"RO"}, "begin_search", []any{"type", "keyword", "spec", []any{"keyword", "streams", "startfrom", int64(1)}},
		"find_keys", []any{"type", "range", "spec", []any{"lastkey", int64(-1), "keystep", int64(1), "limit", int64(2)}}},
		[]any{"flags", []any{"incomplete", "not_key"}, "begin_search", []any{"type", "unknown"}, "find_keys", []any{"type", "unknown"}})
	got, err := Describe([]any{row, keyword})
	if err != nil {
		t.Fatal(err)
	}
	if want := []Spec{{Begin: Index, At: 1, Find: Range, Step: 1}, {Begin: Index, At: 2, Find: KeyCount, First: 1, Step: 1, Reads: true}}; !reflect.DeepEqual(got[0].Specs, want) {
		t.Errorf("specifications %+v, want %+v", got[0].Specs, want)
	}
	if want := []Spec{{Begin: Keyword, At: 1, Word: "STREAMS", Find: Range, Last: -1, Step: 1, Limit: 2, Reads: true}, {Channel: true, Incomplete: true}}; !reflect.DeepEqual(got[1].Specs, want) {
		t.Errorf("specifications %+v, want %+v", got[1].Specs, want)
	}
}

func TestDescribeNamesWhatIsWrong(t *testing.T) {
	inner := described("client", "")
	inner[9] = "none"
	for _, reply := range []any{nil, "OK", []any{"get"}, []any{[]any{"get", int64(2)}}, []any{described("", "")}, []any{inner}} {
		if _, err := Describe(reply); err == nil {
			t.Errorf("%v is taken", reply)
		}
	}
}
