// Where a project's newest checkpoint is.

package weights

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/native/project"
	machine "github.com/ravnest/ravnest/signaling/run"
)

// manifestFiles are where the manifest of a project's newest checkpoint is: in the store, and a
// copy for readers, which is older where a disk was full.
func manifestFiles(p *project.Project) []string {
	return []string{
		filepath.Join(p.Dir, project.StoreDir, filepath.FromSlash(machine.ManifestObject(p.RunID()))),
		filepath.Join(p.Dir, project.ManifestFile),
	}
}

// Manifest reads the newest checkpoint's manifest: the store's if all that it names is there,
// else its copy.
func Manifest(p *project.Project) (*snapshot.Manifest, error) {
	files := manifestFiles(p)
	if m, err := parseManifest(p, files[0]); err == nil && !slices.ContainsFunc(m.Parts, func(e snapshot.Entry) bool {
		info, err := os.Stat(filepath.Join(p.Dir, project.StoreDir, filepath.FromSlash(e.Object)))
		return !filepath.IsLocal(e.Object) || err != nil || info.Size() != e.Size
	}) {
		return m, nil
	}
	return parseManifest(p, files[1])
}

// ManifestCopy reads the copy of the manifest that is made for readers.
func ManifestCopy(p *project.Project) (*snapshot.Manifest, error) {
	return parseManifest(p, manifestFiles(p)[1])
}

// parseManifest reads a checkpoint's manifest.
func parseManifest(p *project.Project, path string) (*snapshot.Manifest, error) {
	f, size, err := project.OpenRegular(path, "manifest")
	if errors.Is(err, project.ErrMissing) {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, min(size, snapshot.MaxManifest)+1))
	if err != nil {
		return nil, fmt.Errorf("reading the manifest: %w", err)
	}
	m, err := snapshot.ParseManifest(b)
	if err == nil {
		err = m.Check(len(p.Graph.Nodes))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}
