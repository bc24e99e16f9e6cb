package target

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
)

// dataDir is where a container has its volume.
const dataDir = "/data"

// Disk gives a copy of the data of a machine that does not run to be changed. A copy
// can add files to a volume and not take any away: so container and volume are made
// anew, and get what the copy has then. The copy of one machine always has the same
// name.
func (d *Docker) Disk(ctx context.Context, id string, change func(dir string) error) error {
	c, err := d.look(ctx, id)
	if err != nil {
		return err
	}
	if c.State.Pid != 0 {
		return fmt.Errorf("%s is %s, and its data cannot be changed", id, c.State.Status)
	}
	dir := filepath.Join(d.work, id)
	if err := errors.Join(os.MkdirAll(d.work, 0o700), os.RemoveAll(dir)); err != nil {
		return err
	}
	if err := d.docker(ctx, "cp", c.ID+":"+dataDir, dir); err != nil {
		return err
	}
	if err := change(dir); err != nil {
		return err
	}
	if err := d.anew(ctx, id, c); err != nil {
		return fmt.Errorf("the container of %s could not be made anew: %w", id, err)
	}
	data, err := packed(dir, c.Config.User)
	if err != nil {
		return err
	}
	made, err := d.container(ctx, id)
	if err != nil {
		return err
	}
	_, err = d.call(ctx, call{args: []string{"docker", "cp", "-", made + ":" + dataDir}, in: data})
	return err
}

// anew removes a container and its volume, and makes both again. Nothing is started.
func (d *Docker) anew(ctx context.Context, id string, c inspected) error {
	said, err := d.call(ctx, call{args: []string{"docker", "logs", c.ID}, both: true})
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.logged[id] = append(d.logged[id], said...)
	d.mu.Unlock()
	if err := d.docker(ctx, "rm", c.ID); err != nil {
		return err
	}
	for _, m := range c.Mounts {
		if m.Destination != dataDir {
			continue
		}
		if err := d.docker(ctx, "volume", "rm", m.Name); err != nil {
			return err
		}
	}
	if _, err = d.composed(ctx, "up", "--no-start", "--no-deps", serviceOf(id)); err != nil {
		return err
	}
	return d.connected(ctx, id, c)
}

// connected puts a container into those networks that another one was in: docker-compose
// would do so for all but one of them only when it starts the container itself.
func (d *Docker) connected(ctx context.Context, id string, was inspected) error {
	c, err := d.look(ctx, id)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(was.NetworkSettings.Networks)) {
		if _, ok := c.NetworkSettings.Networks[name]; ok {
			continue
		}
		if err := d.connect(ctx, c.ID, name, was.NetworkSettings.Networks[name].Aliases); err != nil {
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
func (d *Docker) Log(ctx context.Context, id string) (string, error) {
	c, err := d.look(ctx, id)
	if err != nil {
		return "", err
	}
	said, err := d.call(ctx, call{args: []string{"docker", "logs", "--since", c.State.StartedAt, c.ID}, both: true})
	return string(said), err
}

// Logs writes what each machine has logged to sN.log or dN.log in dir.
func (d *Docker) Logs(ctx context.Context, dir string) error {
	var errs []error
	for _, id := range slices.Concat(d.ids, d.nodes) {
		errs = append(errs, d.keepLog(ctx, id, filepath.Join(dir, id+".log")))
	}
	return errors.Join(errs...)
}

func (d *Docker) keepLog(ctx context.Context, id, file string) error {
	made, err := d.container(ctx, id)
	if errors.Is(err, errNoContainer) {
		return nil // none was made yet
	}
	if err != nil {
		return err
	}
	said, err := d.call(ctx, call{args: []string{"docker", "logs", made}, both: true})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return os.WriteFile(file, slices.Concat(d.logged[id], said), 0o600)
}
