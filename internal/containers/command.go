package containers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// commandTime bounds one docker command. Starting containers takes seconds on a
// machine that is busy, stopping one up to its grace period.
const commandTime = time.Minute

// Call is one run of a program. Its output is what it prints, errors included if Both is set.
type Call struct {
	Args []string // the first is the program
	Env  []string // added to that of this process
	In   io.Reader
	Both bool
}

// runCommand runs a program of this machine. An interrupt from the terminal does not reach it: this process alone decides what an
// interrupt ends, and the removal of containers is to outlive even a second one.
func runCommand(ctx context.Context, c Call) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	ownGroup(cmd)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.In, &out, &errs
	if c.Both {
		cmd.Stderr = &out
	}
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.Bytes(), nil
}
