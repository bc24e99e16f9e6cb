package load

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/internal/overlay"
)

// TestFasterTimesAreSafe: the overlay still finds its places, what it makes is
// built, and the tests of the times hold for it.
func TestFasterTimesAreSafe(t *testing.T) {
	root := filepath.Join("..", "..")
	list, err := overlay.Write(root, t.TempDir(), slices.Concat(Faster, FasterNodes, FewEntries, FailPoints))
	if err != nil {
		t.Fatal(err)
	}
	test := exec.Command("go", "test", "-count=1", "-v", "-overlay", list, "-run", "TestDefaultLeases", "./internal/api")
	test.Dir = root
	said, err := test.CombinedOutput()
	if err != nil || !strings.Contains(string(said), "a lease of 1.6s") {
		t.Errorf("%v\n%s", err, said)
	}
}
