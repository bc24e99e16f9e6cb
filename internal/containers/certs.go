package containers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/certs"
)

const (
	// tlsDir is where a container has its certificate, its key, and that of the authority, and those of nobody else.
	tlsDir = "/tls"
	// cluster is the name of the cluster in the certificates.
	cluster = "containers"
)

// Credentials are an admin's, for requests to the servers.
func (p *Project) Credentials() certs.Files {
	return p.issued().Files(access.Who{Role: access.Admin})
}

// issued is where certificates are made.
func (p *Project) issued() certs.Dir { return certs.Dir(filepath.Join(p.cfg.Work, "certs")) }

// certify makes an authority and certificates for an admin and all machines that want one, and gives each of these, which has a
// container that does not run yet, its own. No container may do more than ours need.
func (p *Project) certify(ctx context.Context) error {
	dir, now := p.issued(), time.Now()
	if err := errors.Join(os.RemoveAll(string(dir)), os.MkdirAll(p.cfg.Work, 0o700)); err != nil {
		return err
	}
	by, err := dir.Init(cluster, now)
	if err != nil {
		return err
	}
	if _, err := dir.Issue(by, certs.Wish{Who: access.Who{Role: access.Admin}}, now, false); err != nil {
		return err
	}
	for _, m := range p.cfg.Machines {
		c, err := p.look(ctx, m.ID)
		if err != nil {
			return err
		}
		if err := c.confined(); err != nil {
			return fmt.Errorf("%s: %w", m.ID, err)
		}
		if m.Cert == nil {
			continue
		}
		one, err := dir.Issue(by, *m.Cert, now, false)
		if err != nil {
			return err
		}
		if err := p.give(ctx, c, dir.CA(), one.Cert, one.Key); err != nil {
			return fmt.Errorf("giving %s its certificate: %w", m.ID, err)
		}
	}
	return nil
}

// give puts copies of files into the directory for certificates of a container, as its user's.
func (p *Project) give(ctx context.Context, c inspected, files ...string) error {
	a, err := newArchive(c.Config.User)
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := a.add(file, filepath.Base(file)); err != nil {
			return err
		}
	}
	data, err := a.done()
	if err != nil {
		return err
	}
	_, err = p.call(ctx, Call{Args: []string{"docker", "cp", "-", c.ID + ":" + tlsDir}, In: data})
	return err
}

// confined is an error if a process in the container could do more than ours needs.
func (c inspected) confined() error {
	h := c.HostConfig
	var missing []string
	for what, held := range map[string]bool{
		"read_only":                              h.ReadonlyRootfs,
		"cap_drop: [ALL]":                        slices.Contains(h.CapDrop, "ALL") && len(h.CapAdd) == 0 && !h.Privileged,
		"security_opt: [no-new-privileges]":      slices.ContainsFunc(h.SecurityOpt, func(o string) bool { return strings.HasPrefix(o, "no-new-privileges") }),
		"mem_limit":                              h.Memory > 0,
		"pids_limit":                             h.PidsLimit > 0,
		"user: a number that is not root's":      c.Config.User != "" && !strings.HasPrefix(c.Config.User, "0") && !strings.HasPrefix(c.Config.User, "root"),
		"a process and network space of its own": h.NetworkMode != "host" && h.PidMode != "host",
	} {
		if !held {
			missing = append(missing, what)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("its container may do too much; the compose file lacks %s", strings.Join(missing, ", "))
}
