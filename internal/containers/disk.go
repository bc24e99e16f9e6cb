package containers

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// dataDir is where a container has its volume.
const dataDir = "/data"

// Disk gives a copy of the data of a machine that does not run to be changed. A copy
// can add files to a volume and not take any away: so container and volume are made
// anew, and get what the copy has then. The copy of one machine always has the same
// name.
func (p *Project) Disk(ctx context.Context, id string, change func(dir string) error) error {
	c, err := p.look(ctx, id)
	if err != nil {
		return err
	}
	if c.State.Pid != 0 {
		return fmt.Errorf("%s is %s, and its data cannot be changed", id, c.State.Status)
	}
	dir := filepath.Join(p.cfg.Work, id)
	if err := errors.Join(os.MkdirAll(p.cfg.Work, 0o700), os.RemoveAll(dir)); err != nil {
		return err
	}
	if err := p.docker(ctx, "cp", c.ID+":"+dataDir, dir); err != nil {
		return err
	}
	if err := change(dir); err != nil {
		return err
	}
	if err := p.anew(ctx, id, c); err != nil {
		return fmt.Errorf("the container of %s could not be made anew: %w", id, err)
	}
	data, err := packed(dir, c.Config.User)
	if err != nil {
		return err
	}
	made, err := p.container(ctx, id)
	if err != nil {
		return err
	}
	_, err = p.call(ctx, Call{Args: []string{"docker", "cp", "-", made + ":" + dataDir}, In: data})
	return err
}

// anew removes a container and its volume, and makes both again. Nothing is started.
func (p *Project) anew(ctx context.Context, id string, c inspected) error {
	said, err := p.call(ctx, Call{Args: []string{"docker", "logs", c.ID}, Both: true})
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.logged[id] = append(p.logged[id], said...)
	p.mu.Unlock()
	if err := p.docker(ctx, "rm", c.ID); err != nil {
		return err
	}
	for _, m := range c.Mounts {
		if m.Destination != dataDir {
			continue
		}
		if err := p.docker(ctx, "volume", "rm", m.Name); err != nil {
			return err
		}
	}
	m, err := p.machine(id)
	if err != nil {
		return err
	}
	if _, err = p.composed(ctx, "up", "--no-start", "--no-deps", m.Service); err != nil {
		return err
	}
	return p.connected(ctx, id, c)
}

// connected puts a container into those networks that another one was in: docker-compose
// would do so for all but one of them only when it starts the container itself.
func (p *Project) connected(ctx context.Context, id string, was inspected) error {
	c, err := p.look(ctx, id)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(was.NetworkSettings.Networks)) {
		if _, ok := c.NetworkSettings.Networks[name]; ok {
			continue
		}
		if err := p.connect(ctx, c.ID, name, was.NetworkSettings.Networks[name].Aliases); err != nil {
			return err
		}
	}
	return nil
}

// archive is of files that belong to a user.
type archive struct {
	out      bytes.Buffer
	w        *tar.Writer
	uid, gid int
}

// newArchive begins an archive. user is uid:gid.
func newArchive(user string) (*archive, error) {
	a := &archive{}
	if _, err := fmt.Sscanf(user, "%d:%d", &a.uid, &a.gid); err != nil {
		return nil, fmt.Errorf("the user of the container is %q, and not uid:gid: %w", user, err)
	}
	a.w = tar.NewWriter(&a.out)
	return a, nil
}

// add adds a file, or a directory without what is in it.
func (a *archive) add(path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	head, err := tar.FileInfoHeader(info, "")
	if err != nil {
		return err
	}
	head.Name, head.Uid, head.Gid, head.Uname, head.Gname = filepath.ToSlash(name), a.uid, a.gid, "", ""
	if err := a.w.WriteHeader(head); err != nil || info.IsDir() {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = a.w.Write(data)
	return err
}

func (a *archive) done() (io.Reader, error) { return &a.out, a.w.Close() }

// packed is a directory as an archive whose files belong to a user, uid:gid.
func packed(dir, user string) (io.Reader, error) {
	a, err := newArchive(user)
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return a.add(path, name)
	})
	if err != nil {
		return nil, err
	}
	return a.done()
}

// Log is what a machine has logged since its last start.
func (p *Project) Log(ctx context.Context, id string) (string, error) {
	c, err := p.look(ctx, id)
	if err != nil {
		return "", err
	}
	said, err := p.call(ctx, Call{Args: []string{"docker", "logs", "--since", c.State.StartedAt, c.ID}, Both: true})
	return string(said), err
}

// LastLogs are the last lines that each machine has logged; none before Up.
func (p *Project) LastLogs(ctx context.Context, lines int) (string, error) {
	if !p.claimed() {
		return "", nil
	}
	said, err := p.composed(ctx, "logs", "--no-color", "--tail", strconv.Itoa(lines))
	return string(said), err
}

// Logs writes what each machine has logged to ID.log in dir; nothing before Up.
func (p *Project) Logs(ctx context.Context, dir string) error {
	if !p.claimed() {
		return nil
	}
	var errs []error
	for _, m := range p.cfg.Machines {
		errs = append(errs, p.keepLog(ctx, m.ID, filepath.Join(dir, m.ID+".log")))
	}
	return errors.Join(errs...)
}

func (p *Project) keepLog(ctx context.Context, id, file string) error {
	made, err := p.container(ctx, id)
	if errors.Is(err, errNoContainer) {
		return nil // none was made yet
	}
	if err != nil {
		return err
	}
	said, err := p.call(ctx, Call{Args: []string{"docker", "logs", made}, Both: true})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return os.WriteFile(file, slices.Concat(p.logged[id], said), 0o600)
}
