package overlay

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func files(t *testing.T, all map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range all {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestBuildTakesTheEdits: the program that is built says what the edits say, and
// the sources are as they were.
func TestBuildTakesTheEdits(t *testing.T) {
	const source = "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Print(\"one\", \"two\") }\n"
	root := files(t, map[string]string{"go.mod": "module example.org/said\n", "main.go": source})
	list, err := Write(root, t.TempDir(), []Edit{{"main.go", `"one"`, `"three"`}, {"main.go", `"two"`, `"four"`}})
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "run", "-overlay", list, ".")
	build.Dir = root
	said, err := build.CombinedOutput()
	if err != nil || string(said) != "threefour" {
		t.Errorf("the program says %q, %v", said, err)
	}
	if now, err := os.ReadFile(filepath.Join(root, "main.go")); err != nil || string(now) != source {
		t.Errorf("the source has become %q, %v", now, err)
	}
}

func TestEditsThatFindNoPlace(t *testing.T) {
	root := files(t, map[string]string{"a.go": "package a // a\n"})
	for _, c := range []struct {
		edit Edit
		want string
	}{
		{Edit{"a.go", "b", "c"}, "holds 0 times"},
		{Edit{"a.go", "a", "c"}, "holds 4 times"},
		{Edit{"b.go", "a", "c"}, "not the root"},
	} {
		if _, err := Write(root, t.TempDir(), []Edit{c.edit}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.edit, err)
		}
	}
}
