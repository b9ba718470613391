//! Where the parts of a picture lie: cells along the chain, in rows like text. Pure geometry, whole pixels.

/// A tile: one device, or one end of the chain.
pub(super) const TILE: Size = Size { width: 140, height: 68 };

/// Between tiles of one cell.
pub(super) const TILE_GAP: i32 = 10;

/// For the title above the tiles of a cell.
pub(super) const TITLE: i32 = 20;

/// Between cells, for a link and its figures.
pub(super) const GAP: i32 = 104;

/// Between rows, for the link from the end of one to the start of the next.
const ROW_GAP: i32 = 54;

/// Around several tiles of one cell.
const FRAME: i32 = 5;

/// Tiles above one another, as long as that takes no more columns than fit.
const COLUMN: usize = 10;

/// The most columns of a cell.
const COLUMNS: usize = 7;

/// The widest row.
const MAX_WIDTH: i32 = 1200;

/// Pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) width: i32,
    pub(super) height: i32,
}

/// Where a cell lies, its title included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) row: usize,
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) size: Size,
    /// The height at which links enter and leave: the same for all cells of a row.
    pub(super) middle: i32,
}

impl Place {
    pub(super) fn right(&self) -> i32 {
        self.left + self.size.width
    }

    /// What encloses its tiles.
    pub(super) fn frame(&self) -> Place {
        let Size { width, height } = self.size;
        let size = Size { width: width + 2 * FRAME, height: height - TITLE + 2 * FRAME };
        Place { left: self.left - FRAME, top: self.top + TITLE - FRAME, size, ..*self }
    }

    /// The corner of a tile of this cell.
    pub(super) fn tile(&self, index: usize, tiles: usize) -> (i32, i32) {
        let (column, line) = (index / lines(tiles), index % lines(tiles));
        let step = |size: i32, at: usize| (size + TILE_GAP) * at as i32;
        (self.left + step(TILE.width, column), self.top + TITLE + step(TILE.height, line))
    }
}

/// Tiles above one another in a cell of so many.
fn lines(tiles: usize) -> usize {
    tiles.div_ceil(tiles.div_ceil(COLUMN).min(COLUMNS))
}

fn size(tiles: usize) -> Size {
    let span = |size: i32, count: usize| (size + TILE_GAP) * count as i32 - TILE_GAP;
    Size {
        width: span(TILE.width, tiles.div_ceil(lines(tiles))),
        height: TITLE + span(TILE.height, lines(tiles)),
    }
}

/// Places cells of so many tiles each, from `top` on, and says how large it all is. `left` is free on both sides.
pub(super) fn place(tiles: &[usize], left: i32, top: i32) -> (Vec<Place>, Size) {
    let mut rows: Vec<Vec<Size>> = vec![Vec::new()];
    let mut x = left;
    for size in tiles.iter().map(|&count| size(count)) {
        if x > left && x + size.width + left > MAX_WIDTH {
            rows.push(Vec::new());
            x = left;
        }
        rows.last_mut().expect("there is one").push(size);
        x += size.width + GAP;
    }
    let mut places = Vec::new();
    let (mut y, mut width) = (top, 0);
    for (row, sizes) in rows.iter().enumerate() {
        let tallest = sizes.iter().map(|size| size.height).max().unwrap_or(0);
        let middle = y + TITLE + (tallest - TITLE) / 2;
        let mut x = left;
        for &size in sizes {
            let top = middle - TITLE - (size.height - TITLE) / 2;
            places.push(Place { row, left: x, top, size, middle });
            width = width.max(x + size.width + left);
            x += size.width + GAP;
        }
        y += tallest + ROW_GAP;
    }
    (places, Size { width, height: y - ROW_GAP })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overlaps_and_all_of_it_is_inside() {
        let chains = (1..=64).map(|stages| vec![1; stages + 2]);
        let replicas = (1..=100).map(|devices| vec![1, devices, 3, 1]);
        for tiles in chains.chain(replicas) {
            let (places, whole) = place(&tiles, 40, 100);
            assert!(whole.width <= MAX_WIDTH, "{whole:?}");
            let rectangles: Vec<(i32, i32, i32, i32)> = std::iter::zip(&places, &tiles)
                .flat_map(|(place, &count)| (0..count).map(move |i| place.tile(i, count)))
                .map(|(x, y)| (x, y, x + TILE.width, y + TILE.height))
                .collect();
            for (i, a) in rectangles.iter().enumerate() {
                assert!(a.0 >= 40 && a.1 >= 100 + TITLE && a.2 + 40 <= whole.width && a.3 <= whole.height);
                for b in &rectangles[..i] {
                    assert!(a.0 >= b.2 || b.0 >= a.2 || a.1 >= b.3 || b.1 >= a.3, "{a:?} lies on {b:?}");
                }
            }
        }
    }
}
