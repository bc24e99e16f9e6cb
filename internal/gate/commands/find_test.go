package commands

import (
	"bytes"
	"strings"
	"testing"
)

// args splits a line at its spaces.
func args(line string) [][]byte { return bytes.Fields([]byte(line)) }

// table is the one that no upstream has checked.
func table(t testing.TB) *Checked {
	t.Helper()
	checked, diff := Check(nil)
	if diff.String() != "none" {
		t.Fatalf("without an upstream there are differences: %s", diff)
	}
	return checked
}

func TestFindKnowsEveryCommandInEveryCase(t *testing.T) {
	checked := table(t)
	if len(checked.All()) < 390 {
		t.Fatalf("the table has only %d commands", len(checked.All()))
	}
	for _, c := range checked.All() {
		for _, line := range []string{c.Name, strings.ToLower(c.Name), strings.ToLower(c.Name[:1]) + c.Name[1:]} {
			words := bytes.Split([]byte(line), []byte("|"))
			got, ok := checked.Find(append(words, []byte("x"))[:max(len(words), 1)])
			if !ok || got != c {
				t.Errorf("Find(%q) = %v, %v", words, got, ok)
			}
		}
	}
}

// What a move relies on at the store is no client's to change.
func TestMovesAreLeftAlone(t *testing.T) {
	checked := table(t)
	for _, line := range []string{"CONFIG RESETSTAT", "CONFIG SET maxmemory-policy allkeys-lru", "CLIENT KILL ID 1", "CLIENT PAUSE 1", "FLUSHALL"} {
		if c := find(t, checked, line); c.Policy != Refuse || c.Why == "" {
			t.Errorf("%s: %v, %q", line, c.Policy, c.Why)
		}
	}
}

func TestFindRefusesWhatIsNoCommand(t *testing.T) {
	checked := table(t)
	for _, line := range []string{"", "S", "SE", "SETT", "SET\x00", "@ET", "SEt ", "G\x45\xd4", "xread group", "[ET", "{get",
		"CLIENT FOO", "CLIENT|KILL", "XGROUP DELCONSUMERS", "GEORADIUSBYMEMBER_ROO", "A-NAME-OF-MORE-THAN-24-BYTES"} {
		words := args(line)
		if strings.HasSuffix(line, " ") {
			words = [][]byte{[]byte(line)}
		}
		if c, ok := checked.Find(words); ok && line != "xread group" {
			t.Errorf("Find(%q) found %s", words, c.Name)
		}
	}
	if c, ok := checked.Find(args("xread group")); !ok || c.Name != "XREAD" {
		t.Errorf("a second word is no subcommand of XREAD: %v, %v", c, ok)
	}
}

// Whatever the bytes, Find and a comparison byte by byte agree.
func FuzzFind(f *testing.F) {
	for _, seed := range []string{"get", "SET", "Client", "xautoclaim", "GEORADIUSBYMEMBER_RO", "\xc7ET", "g\x05t", "`et", "GE\x14"} {
		f.Add([]byte(seed))
	}
	checked := table(f)
	f.Fuzz(func(t *testing.T, word []byte) {
		var want *Command
		for _, c := range checked.All() {
			if is(word, c.Name) && !strings.Contains(c.Name, "|") {
				want = c
			}
		}
		if got, _ := checked.Find([][]byte{word}); got != want {
			t.Errorf("Find(%q) = %v, want %v", word, got, want)
		}
	})
}

func TestUnknown(t *testing.T) {
	long := strings.Repeat("x", 200)
	for want, words := range map[string][]string{
		"ERR no command": {},
		"ERR unknown command 'Foo', with args beginning with: ":                                         {"Foo"},
		"ERR unknown command 'foo', with args beginning with: 'a' 'b  c' '' ":                           {"foo", "a", "b\r\nc", "\x00d"},
		"ERR unknown command '" + long[:128] + "', with args beginning with: 'a' '" + long[:124] + "' ": {long, "a", long, "b"},
		"ERR unknown subcommand 'no'. Try CLIENT HELP.":                                                 {"client", "no", "x"},
	} {
		var list [][]byte
		for _, w := range words {
			list = append(list, []byte(w))
		}
		if got := table(t).Unknown(list); got != want {
			t.Errorf("of %q: %q, want %q", words, got, want)
		}
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	checked := table(t)
	words, keys := args("EVAL script 2 a b c"), make([]Key, 0, 8)
	if n := testing.AllocsPerRun(100, func() {
		c, _ := checked.Find(words)
		got, err := c.AppendKeys(keys, words)
		if err != nil || len(got) != 2 {
			t.Fatal(got, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFind(b *testing.B) {
	checked := table(b)
	for _, line := range []string{"GET key", "SET key value", "set key value", "ZRANGEBYSCORE key 0 1", "GEORADIUSBYMEMBER_RO key", "XGROUP CREATE key g $", "NOSUCH"} {
		words := args(line)
		b.Run(strings.ReplaceAll(line, " ", "_"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				checked.Find(words)
			}
		})
	}
}

func BenchmarkAppendKeys(b *testing.B) {
	checked := table(b)
	for _, line := range []string{"SET key value", "MSET a 1 b 2 c 3 d 4", "EVAL script 2 a b c", "BITOP AND d a b", "SORT key BY w LIMIT 0 1 STORE d", "XREADGROUP GROUP g c STREAMS a b > >"} {
		words, keys := args(line), make([]Key, 0, 8)
		c, _ := checked.Find(words)
		b.Run(c.Name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.AppendKeys(keys, words); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
