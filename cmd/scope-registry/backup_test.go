package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/snapshot"
)

// saved is a server with something in it, and a backup of that.
func saved(t *testing.T) (at, file string) {
	t.Helper()
	at = moving(t)
	runLines(t, at, []line{{"move start app: --from a --to b --mode assisted --id m1", 0, ""}})
	file = filepath.Join(t.TempDir(), "scopes.backup")
	runLines(t, at, []line{{"backup save " + file, 0, `scopes +1\nnodes +2\nrunning moves +1\n(?s:.*)bytes +\d+\nsha256 +[0-9a-f]{64}\n`}})
	return at, file
}

func TestBackup(t *testing.T) {
	at, file := saved(t)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	runLines(t, at, []line{
		{"backup verify " + file, 0, `written +\S+Z\ncluster +\S+\nincarnation +1\nindex +\d+\nscopes +1\n`},
		{"backup verify " + file + " -o json", 0, `"scopes": 1`},
		{"backup save " + file, 2, "INVALID: .*exists.*--force"},
		{"backup save " + file + " --force -o jsonl", 0, `^\{"file":.*"sha256":"[0-9a-f]{64}"\}\n$`},
		{"backup save " + file + ".d/x", 1, "INTERNAL: .*cannot be written"},
		{"backup verify " + file + ".none", 3, "NOT_FOUND"},
		{"backup verify " + filepath.Dir(file), 9, "CORRUPT"},
	})
	after, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	one, err1 := readBackup("one", bytes.NewReader(before))
	two, err2 := readBackup("two", bytes.NewReader(after))
	if err1 != nil || err2 != nil || one.Hash != two.Hash || one.Written > two.Written || one.Written == "" {
		t.Errorf("two backups of one state are %+v and %+v (%v, %v)", one, two, err1, err2)
	}
	runLines(t, "http://127.0.0.1:1", []line{{"backup save " + file + "2 --timeout 200ms", 5, "UNAVAILABLE"}})
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(entries) != 1 {
		t.Errorf("besides the backup there is something: %v, %v", entries, err)
	}
}

func TestBackupThroughAPipe(t *testing.T) {
	at, file := saved(t)
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out, say bytes.Buffer
	if code := run(t.Context(), []string{"backup", "save", "-", "--endpoints", at}, strings.NewReader(""), &out, &say); code != 0 {
		t.Fatalf("exit %d\n%s", code, say.String())
	}
	one, err1 := readBackup("one", bytes.NewReader(want))
	two, err2 := readBackup("two", bytes.NewReader(out.Bytes()))
	if err1 != nil || err2 != nil || one.Hash != two.Hash {
		t.Fatalf("through the pipe came %+v (%v), want %+v (%v)", two, err2, one, err1)
	}
	if !regexp.MustCompile(`scopes +1\n`).MatchString(say.String()) {
		t.Errorf("standard error says\n%s", say.String())
	}
	var facts bytes.Buffer
	if code := run(t.Context(), []string{"backup", "verify", "-"}, &out, &facts, &say); code != 0 || facts.String() != say.String() {
		t.Errorf("exit %d, verify says\n%ssave said\n%s", code, facts.String(), say.String())
	}
}

// contradiction is a backup whose checksums are right and whose records are not.
func contradiction(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := snapshot.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*pb.Record{
		{Kind: &pb.Record_Cluster{Cluster: &pb.ClusterRecord{Id: "c1", Index: 9, NextEpoch: 2}}},
		{Kind: &pb.Record_Scope{Scope: &pb.ScopeRecord{Prefix: []byte("app:"), Writer: "nobody", Owner: "nobody", Epoch: 1, Failover: "auto", Lease: "auto"}}},
	} {
		if err := w.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBackupDamaged(t *testing.T) {
	_, file := saved(t)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, data []byte) {
		var out bytes.Buffer
		if code := run(t.Context(), []string{"backup", "verify", "-"}, bytes.NewReader(data), &out, &out); code != 9 || !regexp.MustCompile(`CORRUPT: - is no whole backup: .*\d`).MatchString(out.String()) {
			t.Errorf("%s: exit %d\n%s", name, code, out.String())
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		check("a flipped bit", bad)
		check("cut off", good[:i])
	}
	check("contradicts itself", contradiction(t))
	check("more than a backup", append(bytes.Clone(good), 0))
}
