package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/scope-registry/scope-registry/internal/overlay"
)

// Build builds a package of the repository at root into the directory dir, with
// the edits made to the sources, and returns the path of the program.
func Build(ctx context.Context, root, dir, pkg string, edits ...overlay.Edit) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("directory for the program %q: %w", dir, err)
	}
	program := filepath.Join(dir, filepath.Base(pkg))
	args := []string{"build", "-buildvcs=false", "-o", program}
	if len(edits) > 0 {
		files, err := os.MkdirTemp("", "overlay-*")
		if err != nil {
			return "", err
		}
		defer os.RemoveAll(files) //nolint:errcheck // a temporary directory
		list, err := overlay.Write(root, files, edits)
		if err != nil {
			return "", err
		}
		args = append(args, "-overlay", list)
	}
	build := exec.CommandContext(ctx, "go", append(args, pkg)...)
	build.Dir = root
	if said, err := build.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("building %s in %s: %w\n%s", pkg, root, err, said), ctx.Err())
	}
	return program, nil
}
