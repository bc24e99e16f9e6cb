package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/gate/commands/valkey"
)

// What is checked in is what the generator makes.
func TestGenerated(t *testing.T) {
	files, err := generated()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 {
		t.Fatalf("%d files are generated", len(files))
	}
	for name, want := range files {
		got, err := os.ReadFile("../../../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not current: run make generate", name)
		}
	}
}

// A command that nobody decided about stops the generator.
func TestNothingIsDecidedByAccident(t *testing.T) {
	for flags, policy := range map[string]string{"WRITE": "Write", "READONLY": "Pass", "ADMIN": ""} {
		d, err := decide(valkey.Command{Name: "NEW", Flags: []string{flags}}, false)
		if d.policy != policy || (err == nil) != (policy != "") {
			t.Errorf("a new command with the flag %s is decided to be %q, %v", flags, d.policy, err)
		}
	}
	if d, err := decide(valkey.Command{Name: "NEW", Flags: nil}, true); err != nil || d.policy != "Pass" {
		t.Errorf("a new container is decided to be %q, %v", d.policy, err)
	}
	if d, err := decide(valkey.Command{Name: "CLUSTER|NEW"}, false); err != nil || d.policy != "Refuse" {
		t.Errorf("a new subcommand of a refused container is decided to be %q, %v", d.policy, err)
	}
}

// Descriptions are read as Valkey writes them, and come out as the data has them.
func TestExtract(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "commands.jsonl")
	text := `{"GET":{"group":"string","since":"1.0.0","arity":2,"command_flags":["READONLY"],"summary":"x",
		"key_specs":[{"flags":["RO"],"begin_search":{"index":{"pos":1}},"find_keys":{"range":{"lastkey":0,"step":1,"limit":0}}}],
		"arguments":[{"name":"key","type":"key","key_spec_index":0,"multiple":"true"}]}}`
	for name, text := range map[string]string{"get.json": text, "x.json": `{"HELP":{"container":"X","arity":2}}`, "s.json": `{"S":{"command_flags":["ONLY_SENTINEL"]}}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := extract(dir, out); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"GET","group":"string","since":"1.0.0","arity":2,"flags":["READONLY"],"keys":[{"flags":["RO"],"begin_search":{"index":{"pos":1}},` +
		`"find_keys":{"range":{"lastkey":0,"step":1,"limit":0}}}],"arguments":[{"name":"key","type":"key","multiple":true}]}` + "\n" +
		`{"name":"X|HELP","group":"","since":"","arity":2}` + "\n"
	if string(got) != want {
		t.Errorf("extracted\n%s\nwant\n%s", got, want)
	}
	if err := extract(t.TempDir(), out); err == nil || !strings.Contains(err.Error(), "src/commands") {
		t.Errorf("of an empty folder: %v", err)
	}
}
