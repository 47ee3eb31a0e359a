//! `preprocessor_config.json`: what is done to an image before a model sees it.
//!
//! Read are the processors of ViT and CLIP under all their names (`…ImageProcessor`, `…Fast`, `…Pil`, `…FeatureExtractor`),
//! with the defaults of their classes; version 5 of transformers nests them in `processor_config.json`. A processor of
//! another name is an error: its defaults and its order of steps are not known.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::resample::resize;
use super::{Filter, ImageError, Rgb};
use crate::json::{read_object_if_there, shown};

/// How the size after resizing is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// Height and width, whatever the image's.
    Exact(usize, usize),
    /// The shorter edge; the other keeps the proportion, rounded down.
    ShortestEdge(usize),
}

/// What is done to an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Processor {
    resize: Option<(Size, Filter)>,
    crop: Option<(usize, usize)>,
    rescale: Option<f64>,
    normalize: Option<([f64; 3], [f64; 3])>,
}

/// Normalised pixels: [3, height, width].
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Rows.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// One plane per channel.
    pub values: Vec<f32>,
}

const NAMES: [(&str, bool); 2] = [("ViT", false), ("CLIP", true)];
const ENDINGS: [&str; 4] = ["ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor"];
const CLIP_MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];

impl Processor {
    /// The processor of the model in `dir`.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        let path = dir.join("preprocessor_config.json");
        if let Some(keys) = read_object_if_there(&path)? {
            return Self::parse(&keys, &path);
        }
        let path = dir.join("processor_config.json");
        let keys = read_object_if_there(&path)?;
        match keys.as_ref().and_then(|keys| keys.get("image_processor")).and_then(Value::as_object) {
            Some(keys) => Self::parse(keys, &path),
            None => Err(ImageError::NoProcessor { dir: dir.to_owned() }),
        }
    }

    /// A processor from its keys; `path` is for messages.
    pub fn parse(keys: &Map<String, Value>, path: &Path) -> Result<Self, ImageError> {
        let keys = Keys { map: keys, path: path.to_owned() };
        let clip = keys.is_clip()?;
        let mut made = Self { resize: None, crop: None, rescale: None, normalize: None };
        if keys.flag("do_resize", true)? {
            let usual = if clip { Size::ShortestEdge(224) } else { Size::Exact(224, 224) };
            let filter = keys.filter(if clip { Filter::Bicubic } else { Filter::Bilinear })?;
            made.resize = Some((keys.size("size", clip)?.unwrap_or(usual), filter));
        }
        if keys.flag("do_center_crop", clip)? {
            made.crop = Some(match keys.size("crop_size", false)? {
                None => (224, 224),
                Some(Size::Exact(height, width)) => (height, width),
                Some(Size::ShortestEdge(_)) => return Err(keys.wrong("crop_size", "{height, width}")),
            });
        }
        if keys.flag("do_rescale", true)? {
            made.rescale = Some(keys.number("rescale_factor", 1.0 / 255.0)?);
        }
        if keys.flag("do_normalize", true)? {
            let (mean, std) = if clip { (CLIP_MEAN, CLIP_STD) } else { ([0.5; 3], [0.5; 3]) };
            let std = keys.channels("image_std", std)?;
            if std.contains(&0.0) {
                return Err(keys.wrong("image_std", "numbers other than 0"));
            }
            made.normalize = Some((keys.channels("image_mean", mean)?, std));
        }
        Ok(made)
    }

    /// What a model is fed for `image`.
    pub fn process(&self, image: &Rgb) -> Result<Pixels, ImageError> {
        let (mut size, mut levels) = ((image.height, image.width), image.levels.clone());
        if let Some((wanted, filter)) = self.resize {
            let new = wanted.of(image)?;
            levels = resize(&levels, size, 3, new, filter);
            size = new;
        }
        if let Some(new) = self.crop {
            levels = crop(&levels, size, new);
            size = new;
        }
        Ok(Pixels { height: size.0, width: size.1, values: self.values(&levels) })
    }

    /// Levels of [height, width, 3] as values of [3, height, width].
    fn values(&self, levels: &[u8]) -> Vec<f32> {
        let mut values = Vec::with_capacity(levels.len());
        for channel in 0..3 {
            let table: Vec<f32> = (0..=255).map(|level| self.value(level, channel)).collect();
            let plane = levels.iter().skip(channel).step_by(3);
            values.extend(plane.map(|&level| table[usize::from(level)]));
        }
        values
    }

    fn value(&self, level: u8, channel: usize) -> f32 {
        let value = (f64::from(level) * self.rescale.unwrap_or(1.0)) as f32;
        match self.normalize {
            None => value,
            Some((mean, std)) => (value - mean[channel] as f32) / std[channel] as f32,
        }
    }
}

impl Size {
    /// Height and width of the resized image.
    fn of(self, image: &Rgb) -> Result<(usize, usize), ImageError> {
        const LONGEST: usize = 1 << 16;
        let (height, width) = (image.height, image.width);
        let edge = match self {
            Self::Exact(height, width) => return Ok((height, width)),
            Self::ShortestEdge(edge) => edge,
        };
        let other = edge * height.max(width) / height.min(width);
        if other > LONGEST {
            return Err(ImageError::Narrow { width, height, edge });
        }
        Ok(if width <= height { (other, edge) } else { (edge, other) })
    }
}

/// The middle of an image; what lies outside of it is black. Of an odd rest the smaller half is cut above and left, and
/// the larger half is added there.
fn crop(levels: &[u8], (height, width): (usize, usize), (new_height, new_width): (usize, usize)) -> Vec<u8> {
    let offset =
        |old: usize, new: usize| if old >= new { (0, (old - new) / 2) } else { ((new - old).div_ceil(2), 0) };
    let ((above, top), (before, left)) = (offset(height, new_height), offset(width, new_width));
    let (rows, columns) = (height.min(new_height), width.min(new_width));
    let mut out = vec![0; new_height * new_width * 3];
    for row in 0..rows {
        let from = ((top + row) * width + left) * 3;
        let to = ((above + row) * new_width + before) * 3;
        out[to..to + columns * 3].copy_from_slice(&levels[from..from + columns * 3]);
    }
    out
}

/// Keys of a processor's configuration. Null is as good as absent.
struct Keys<'a> {
    map: &'a Map<String, Value>,
    path: PathBuf,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, expected: &'static str) -> ImageError {
        let found = self.map.get(key).map_or_else(|| "nothing".to_owned(), shown);
        ImageError::Key { path: self.path.clone(), key: key.to_owned(), expected, found }
    }

    /// Whether it is a processor of CLIP; else it is one of ViT.
    fn is_clip(&self) -> Result<bool, ImageError> {
        let key = ["image_processor_type", "feature_extractor_type"]
            .into_iter()
            .find(|key| self.get(key).is_some());
        let key = key.unwrap_or("image_processor_type");
        let name = self.get(key).and_then(Value::as_str).unwrap_or_default();
        let family = NAMES
            .iter()
            .find(|(start, _)| name.strip_prefix(start).is_some_and(|ending| ENDINGS.contains(&ending)));
        let known = "ViTImageProcessor or CLIPImageProcessor (or their Fast, Pil and FeatureExtractor forms)";
        family.map(|(_, clip)| *clip).ok_or_else(|| self.wrong(key, known))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ImageError> {
        let Some(found) = self.get(key) else { return Ok(default) };
        found.as_bool().ok_or_else(|| self.wrong(key, "true or false"))
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, ImageError> {
        let Some(found) = self.get(key) else { return Ok(default) };
        found.as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.wrong(key, "a number"))
    }

    fn filter(&self, default: Filter) -> Result<Filter, ImageError> {
        let Some(found) = self.get("resample") else { return Ok(default) };
        let known = "0 (nearest), 1 (lanczos), 2 (bilinear), 3 (bicubic) or 4 (box)";
        found.as_u64().and_then(Filter::from_number).ok_or_else(|| self.wrong("resample", known))
    }

    fn channels(&self, key: &str, default: [f64; 3]) -> Result<[f64; 3], ImageError> {
        let Some(found) = self.get(key) else { return Ok(default) };
        let numbers: Option<Vec<f64>> =
            found.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        let three = numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok());
        three.ok_or_else(|| self.wrong(key, "three numbers"))
    }

    /// A size: a number (the shortest edge, or a square), `{height, width}` or `{shortest_edge}`.
    fn size(&self, key: &str, number_is_edge: bool) -> Result<Option<Size>, ImageError> {
        let Some(found) = self.get(key) else { return Ok(None) };
        let edge = |value: Option<&Value>| {
            value.and_then(Value::as_u64).filter(|edge| (1..=16384).contains(edge)).map(|edge| edge as usize)
        };
        let part = |name: &str| edge(found.get(name));
        let size = match found {
            Value::Number(_) if number_is_edge => edge(Some(found)).map(Size::ShortestEdge),
            Value::Number(_) => edge(Some(found)).map(|edge| Size::Exact(edge, edge)),
            Value::Object(map) if map.contains_key("longest_edge") && !map["longest_edge"].is_null() => None,
            Value::Object(map) if map.contains_key("height") => {
                part("height").zip(part("width")).map(|(height, width)| Size::Exact(height, width))
            }
            _ => part("shortest_edge").map(Size::ShortestEdge),
        };
        let expected = "{height, width}, {shortest_edge} or a number, of 1 to 16384";
        size.map(Some).ok_or_else(|| self.wrong(key, expected))
    }
}
