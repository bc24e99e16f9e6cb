package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const performance = "../../docs/performance.md"

// Every part has its place in the document, and every place a part.
func TestDocumentHasAllParts(t *testing.T) {
	doc, err := os.ReadFile(performance)
	if err != nil {
		t.Fatal(err)
	}
	have, err := blocks(doc)
	if err != nil {
		t.Fatal(err)
	}
	want := append(partNames(), partMachine)
	slices.Sort(want)
	if sorted := slices.Sorted(slices.Values(have)); !slices.Equal(sorted, want) {
		t.Errorf("%s has blocks %q, the program parts %q", performance, sorted, want)
	}
}

func TestReplaceBlock(t *testing.T) {
	const doc = "# A\n<!-- bench:a -->\nold\n\nolder\n<!-- /bench -->\nprose\n<!-- bench:b -->\n<!-- /bench -->\nend\n"
	got, err := replaceBlock([]byte(doc), "a", "\n| new |\n\n")
	if want := strings.Replace(doc, "old\n\nolder", "| new |", 1); string(got) != want || err != nil {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	got, err = replaceBlock([]byte(doc), "b", "x\n")
	if want := strings.Replace(doc, "bench:b -->\n", "bench:b -->\nx\n", 1); string(got) != want || err != nil {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	if _, err := replaceBlock([]byte(doc), "c", ""); !errors.Is(err, errNoBlock) {
		t.Errorf("a block that is not there: %v", err)
	}
	for _, bad := range []string{
		"<!-- bench:a -->\n", "<!-- /bench -->\n",
		"<!-- bench:a -->\n<!-- bench:b -->\n<!-- /bench -->\n<!-- /bench -->\n",
		"<!-- bench:a -->\n<!-- /bench -->\n<!-- bench:a -->\n<!-- /bench -->\n",
	} {
		if _, err := replaceBlock([]byte(bad), "a", ""); err == nil || errors.Is(err, errNoBlock) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A document is replaced as a whole, and without one a part only prints.
func TestPut(t *testing.T) {
	if err := (options{}).put("a", "x"); err != nil {
		t.Error(err)
	}
	dir := t.TempDir()
	o := options{doc: filepath.Join(dir, "doc.md")}
	if err := o.put("a", "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a document that is not there: %v", err)
	}
	if err := os.WriteFile(o.doc, []byte(blockBegin("a")+blockEnd), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := o.put("a", "x"); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(o.doc)
	if want := blockBegin("a") + "x\n" + blockEnd; string(got) != want || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if left, err := os.ReadDir(dir); len(left) != 1 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
