package httpapi

import (
	"bytes"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/fsm"
)

// An item is encoded once for each form, whoever asks, and one that is older does not take the place of the newest.
func TestLinesAreShared(t *testing.T) {
	item := func(index uint64, node string) fsm.Item {
		return fsm.Item{Index: index, Events: []fsm.Event{{Cause: "set", Node: &fsm.Node{ID: "n", Addr: node}}}}
	}
	old, newest := item(7, "old"), item(8, "new<1>")
	var l lines
	get := func(it fsm.Item, events bool) []byte {
		t.Helper()
		out, err := l.of(it, events)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	first := get(newest, false)
	if again := get(newest, false); &first[0] != &again[0] {
		t.Error("the newest item was encoded twice")
	}
	if got := get(old, false); !bytes.Contains(got, []byte(`"old"`)) {
		t.Errorf("the item before is %s", got)
	}
	if again := get(newest, false); &first[0] != &again[0] {
		t.Error("an older item took the place of the newest")
	}
	event := get(newest, true)
	if !bytes.HasPrefix(event, []byte("event: change\nid: 8\ndata: {")) || !bytes.HasSuffix(event, []byte("}\n\n")) || !strings.Contains(string(event), "new<1>") {
		t.Errorf("as an event it is %q", event)
	}
	if bytes.Count(first, []byte("\n")) != 1 || !bytes.Contains(event, bytes.TrimSpace(first)) {
		t.Errorf("as a line it is %q, as an event %q", first, event)
	}
	// A restore may put another item at the same index.
	if got := get(item(8, "other"), false); !bytes.Contains(got, []byte(`"other"`)) {
		t.Errorf("another item of the same index is %s", got)
	}
}
