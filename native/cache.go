// A cache of blobs on disk, named by the hash of their content.

package native

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

var (
	// ErrHash is wrapped by errors that say content is not what its hash claims.
	ErrHash = errors.New("content does not match its hash")
	// ErrTooLarge is wrapped by errors about a blob that is larger than the whole cache.
	ErrTooLarge = errors.New("larger than the cache")
)

// CacheDir is where this user's caches belong: a folder of the system's cache directory. It need not exist.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the user's cache directory: %w; set HOME or XDG_CACHE_HOME", err)
	}
	return filepath.Join(dir, "ravnest"), nil
}

// Cache keeps blobs in files named by the SHA-256 of their content. What is read is
// verified, so a damaged or forged file is a miss, never an answer. Several processes may
// share a directory: files appear whole or not at all.
type Cache struct {
	dir   string
	limit int64
	now   func() time.Time
}

// OpenCache opens or makes a cache in dir that holds at most limit bytes. now tells the
// order in which blobs were used.
func OpenCache(dir string, limit int64, now func() time.Time) (*Cache, error) {
	if limit < 1 {
		return nil, fmt.Errorf("cache %s: a limit of %d bytes holds nothing", dir, limit)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	return &Cache{dir: dir, limit: limit, now: now}, nil
}

// Hash is the name of a content: SHA-256 in lower-case hex.
func Hash(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// path refuses names that are not hashes, so that a peer's name cannot lead out of dir.
func (c *Cache) path(hash string) (string, error) {
	if !isHash(hash) {
		return "", fmt.Errorf("cache: %.80q is not a SHA-256 hash in lower-case hex", hash)
	}
	return filepath.Join(c.dir, hash), nil
}

func isHash(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// Get reads a blob. A blob that is not there is an error that wraps fs.ErrNotExist; one
// that was damaged is removed and wraps both ErrHash and fs.ErrNotExist: fetch it again.
func (c *Cache) Get(hash string) ([]byte, error) {
	path, err := c.path(hash)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, c.limit+1))
	if err != nil {
		return nil, fmt.Errorf("cache: reading %s: %w", path, err)
	}
	if Hash(data) != hash {
		_ = os.Remove(path)
		return nil, fmt.Errorf("cache: %s: %w; it was removed: %w", path, ErrHash, fs.ErrNotExist)
	}
	// Used now. On a read-only cache it only ages faster.
	_ = os.Chtimes(path, time.Time{}, c.now())
	return data, nil
}

// Put stores data that should have the given hash, and evicts the blobs that were not
// used for longest until the cache is within its limit.
func (c *Cache) Put(hash string, data []byte) error {
	path, err := c.path(hash)
	if err != nil {
		return err
	}
	if h := Hash(data); h != hash {
		return fmt.Errorf("cache: %d bytes have the hash %s, not %s: %w", len(data), h, hash, ErrHash)
	}
	if int64(len(data)) > c.limit {
		return fmt.Errorf("cache %s: a blob of %s does not fit in %s: %w", c.dir, FormatSize(int64(len(data))), FormatSize(c.limit), ErrTooLarge)
	}
	// Room first: the cache never exceeds its limit, also while it is written to.
	if err := c.evict(c.limit-int64(len(data)), hash); err != nil {
		return err
	}
	if err := WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return os.Chtimes(path, time.Time{}, c.now())
}

// stale is the age at which a temporary file is one that a killed process left.
const stale = time.Hour

// evict removes the oldest blobs until those other than keep take at most room bytes.
func (c *Cache) evict(room int64, keep string) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	type blob struct {
		name string
		size int64
		used time.Time
	}
	var blobs []blob
	total := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // gone meanwhile, or not ours
		}
		switch name := e.Name(); {
		case name == keep:
		case isHash(name):
			blobs = append(blobs, blob{name, info.Size(), info.ModTime()})
			total += info.Size()
		case strings.HasPrefix(name, ".") && strings.HasSuffix(name, ".tmp") && c.now().Sub(info.ModTime()) > stale:
			_ = os.Remove(filepath.Join(c.dir, name))
		}
	}
	slices.SortFunc(blobs, func(a, b blob) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.name, b.name)) })
	for _, b := range blobs {
		if total <= room {
			break
		}
		if err := os.Remove(filepath.Join(c.dir, b.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cache: making room: %w", err)
		}
		total -= b.size
	}
	return nil
}
