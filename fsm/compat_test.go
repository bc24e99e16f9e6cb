package fsm

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// TestLogsOfTheReleaseBeforeSessions replays logs that a release without
// sessions wrote, and loads the snapshots that it took: the state is the same to
// the byte, so that servers of both releases agree and an upgrade changes
// nothing.
func TestLogsOfTheReleaseBeforeSessions(t *testing.T) {
	text, err := os.ReadFile("testdata/before-sessions.log")
	if err != nil {
		t.Fatal(err)
	}
	logs, name, s := 0, "", State{}
	for line := range strings.Lines(string(text)) {
		kind, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch kind {
		case "log":
			logs, name, s = logs+1, value, State{}
		case "entry":
			if s, _, _, err = s.ApplyEntry(s.Index()+1, 1, unhex(t, value)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		case "hash":
			if err := s.Check(); err != nil || s.Hash() != value {
				t.Errorf("%s: the log leads to another state than it did: %s, want %s, %v", name, s.Hash(), value, err)
			}
		case "snapshot":
			f := newFSM(t)
			if err := restore(f, unhex(t, value)); err != nil || f.State().Hash() != s.Hash() {
				t.Errorf("%s: the snapshot loads to another state than its log: %v", name, err)
			}
		}
	}
	if logs < 9 {
		t.Errorf("only %d logs were tried", logs)
	}
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
