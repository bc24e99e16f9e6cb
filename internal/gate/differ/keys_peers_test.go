//go:build peers

package main

import (
	"bytes"
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/gate/commands"
	"github.com/scope-registry/scope-registry/internal/gate/commands/valkey"
	"github.com/scope-registry/scope-registry/internal/gate/differ/program"
)

// store starts redis-server for a test.
func store(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("%v; apt-get install redis-server", err)
	}
	addr, stop, err := startStore(t.Context(), bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return addr
}

// What a store says of itself needs no change of the table: it describes the same keys, no command of it is unknown,
// and none writes that the table takes for a read.
func TestPeerTable(t *testing.T) {
	_, diff, err := describe(t.Context(), store(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff.String() != "none" {
		t.Errorf("the table and the store differ: %s", diff)
	}
	for _, name := range diff.Missing {
		if !strings.Contains(name, "|") && since(t, name) < "7.0.15" {
			t.Errorf("%s is said to be there since %s, and is not", name, since(t, name))
		}
	}
}

func since(t *testing.T, name string) string {
	t.Helper()
	all, err := valkey.Commands()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Name == name {
			return c.Since
		}
	}
	t.Fatalf("%s is in no description", name)
	return ""
}

// spelled are the commands of which the store finds other keys than it uses, or none.
var spelled = map[string]string{
	"XREADGROUP": "a consumer may be called STREAMS", "GEORADIUS": "the store finds the first STORE and uses the last", "GEORADIUSBYMEMBER": "the same",
	"COPY": "another database is refused", "PFCOUNT": "the store says that it writes what is a read",
}

func anything(string) bool { return true }

// The keys of thousands of argument lists of every command are those that the store finds, and are written where it
// says so.
func TestPeerKeys(t *testing.T) {
	addr := store(t)
	checked, _, err := describe(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	list, err := valkey.Commands()
	if err != nil {
		t.Fatal(err)
	}
	g, err := program.New(1, 1, anything, anything)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dial(context.Background(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	compared := map[string]int{}
	for i := range list {
		words := bytes.Split([]byte(list[i].Name), []byte("|"))
		c, ok := checked.Find(words)
		if !ok || c.Policy == commands.Refuse || spelled[c.Name] != "" {
			continue
		}
		for range 100 {
			compared[c.Name] += comparedKeys(t, conn, c, g.Of(&list[i]).Args)
		}
	}
	var with int
	for _, n := range compared {
		if n >= 20 {
			with++
		}
	}
	if with < 150 {
		t.Errorf("only of %d commands keys were compared twenty times: %v", with, compared)
	}
}

// comparedKeys compares the keys of one command and returns how many there were.
func comparedKeys(t *testing.T, conn *conn, c *commands.Command, line []string) int {
	t.Helper()
	ask := program.Command{Args: append([]string{"COMMAND", "GETKEYSANDFLAGS"}, line...)}
	a := <-conn.send(encode([]program.Command{ask}, false), 0, 1)
	if a.err != nil {
		t.Fatal(a.err)
	}
	reply := parse(a.replies[0])
	if reply.kind == '-' {
		return 0 // no such command in this release, no keys, or too few arguments
	}
	args := make([][]byte, len(line))
	for i := range line {
		args[i] = []byte(line[i])
	}
	keys, err := c.AppendKeys(nil, args)
	if err != nil {
		t.Errorf("%q: %v", line, err)
		return 0
	}
	var ours, theirs []string
	for _, k := range keys {
		ours = append(ours, marked(k.Writes)+line[k.At])
	}
	for _, k := range reply.list {
		var flags []string
		for _, f := range k.list[1].list {
			flags = append(flags, f.text)
		}
		theirs = append(theirs, marked(c.Policy != commands.Pass && !commands.ReadsKey(flags))+k.list[0].text)
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	if !slices.Equal(ours, theirs) {
		t.Errorf("%q: the table finds %q, the store %q", line, ours, theirs)
	}
	return len(keys)
}

func marked(writes bool) string {
	if writes {
		return "w "
	}
	return "r "
}

// Two stores without a gate answer the same, and one that is not the same is found: one whose lists are of another form.
func TestPeerControl(t *testing.T) {
	var out bytes.Buffer
	found, err := differ(t.Context(), options{plain: true, store: "redis-server", seed: 1, commands: 5000, most: 3, dir: t.TempDir()}, &out)
	if err != nil || found != 0 {
		t.Fatalf("%d differences, %v:\n%s", found, err, out.String())
	}
	other := store(t)
	if v, err := ask(t.Context(), other, "CONFIG", "SET", "zset-max-listpack-entries", "3"); err != nil || v.text != "OK" {
		t.Fatal(v, err)
	}
	found, err = differ(t.Context(), options{store: "redis-server", gate: other, upstream: other, seed: 1, commands: 100000, most: 1, dir: t.TempDir()}, &out)
	if err != nil || found != 1 || !strings.Contains(out.String(), "ENCODING") && !strings.Contains(out.String(), "d:z:") {
		t.Fatalf("%d differences, %v:\n%s", found, err, out.String())
	}
}

// Programs through a gate answer as directly. A million commands are compared by make gate-differ.
func TestPeerGate(t *testing.T) {
	var out bytes.Buffer
	found, err := differ(t.Context(), options{store: "redis-server", seed: 7, commands: 15000, most: 3, dir: t.TempDir()}, &out)
	if err != nil || found != 0 {
		t.Fatalf("%d differences, %v:\n%s", found, err, out.String())
	}
}
