use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::json::read_object;

fn testdata(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/image")).join(name)
}

/// Every filter, larger and smaller: the same levels as Pillow's.
#[test]
fn resampling_agrees_to_the_bit() {
    let image = open(&testdata("grey.png")).unwrap();
    let grey: Vec<u8> = image.levels.iter().step_by(3).copied().collect();
    let text = std::fs::read_to_string(testdata("resize.json")).unwrap();
    let goldens: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(goldens.len(), 20);
    for golden in goldens {
        let number = |key: &str| golden[key].as_u64().unwrap() as usize;
        let filter = match golden["filter"].as_str().unwrap() {
            "nearest" => Filter::Nearest,
            "lanczos" => Filter::Lanczos,
            "bilinear" => Filter::Bilinear,
            "bicubic" => Filter::Bicubic,
            _ => Filter::Box,
        };
        let new = (number("height"), number("width"));
        let made = resample::resize(&grey, (image.height, image.width), 1, new, filter);
        assert_eq!(json!(made), golden["levels"], "{filter:?} {new:?}");
    }
}

/// Pixels of all processors. PNG: to rounding. JPEG: two decoders, so up to two levels (of 255) over the std.
#[test]
fn pixels_agree_with_the_reference() {
    for (name, golden) in &read_object(&testdata("pixels.json")).unwrap() {
        let processor = Processor::parse(golden["config"].as_object().unwrap(), &testdata(name)).unwrap();
        for (file, expected) in golden["pixels"].as_object().unwrap() {
            let made = processor.process(&open(&testdata(file)).unwrap()).unwrap();
            assert_eq!(json!([3, made.height, made.width]), expected["shape"], "{name} {file}");
            let allowed = if file.ends_with("jpg") { 2.0 / 255.0 / 0.26 } else { 2e-6 };
            for (i, (value, reference)) in
                made.values.iter().zip(expected["values"].as_array().unwrap()).enumerate()
            {
                let off = (f64::from(*value) - reference.as_f64().unwrap()).abs();
                assert!(off <= allowed, "{name} {file} at {i}: {value} against {reference}");
            }
        }
    }
}

#[test]
fn broken_images_name_their_file() {
    let png = std::fs::read(testdata("rgb.png")).unwrap();
    let jpeg = std::fs::read(testdata("photo.jpg")).unwrap();
    let path = testdata("broken");
    for bytes in
        [&png[..0], &png[..40], &png[..png.len() / 2], &jpeg[..30], b"GIF89a......", b"no image at all"]
    {
        let error = decode(bytes, &path).unwrap_err();
        assert!(error.to_string().contains("image/broken: not a readable image"), "{error}");
    }
    let mut huge = png.clone();
    huge[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    assert!(decode(&huge, &path).is_err());
    assert!(matches!(open(&testdata("absent.png")), Err(ImageError::Io { .. })));
}

#[allow(clippy::needless_pass_by_value, reason = "`json!` at every call")]
fn parse(keys: Value) -> Result<Processor, ImageError> {
    Processor::parse(keys.as_object().unwrap(), &testdata("x"))
}

#[test]
fn configurations_that_cannot_be_followed() {
    let refused = |key: &str, value: Value| {
        let mut keys = json!({"image_processor_type": "CLIPImageProcessor"});
        keys[key] = value;
        let error = parse(keys).unwrap_err().to_string();
        assert!(error.contains(&format!("key `{key}`: expected")), "{error}");
    };
    refused("image_processor_type", json!("SiglipImageProcessor"));
    refused("size", json!({"longest_edge": 3}));
    refused("size", json!({"height": 3}));
    refused("size", json!(0));
    refused("crop_size", json!({"shortest_edge": 3}));
    refused("resample", json!(5));
    refused("image_mean", json!([0.5]));
    refused("image_std", json!([0.5, 0, 0.5]));
    refused("rescale_factor", json!("x"));
    refused("do_resize", json!(1));
    assert!(parse(json!({})).unwrap_err().to_string().contains("found nothing"));
}

#[test]
fn old_and_new_spellings() {
    let old = parse(json!({"feature_extractor_type": "CLIPFeatureExtractor", "size": 12, "crop_size": 10}))
        .unwrap();
    let new = json!({"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 12},
                     "crop_size": {"height": 10, "width": 10}});
    assert_eq!(parse(new.clone()).unwrap(), old);
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Processor::open(dir.path()), Err(ImageError::NoProcessor { .. })));
    #[allow(clippy::disallowed_methods, reason = "a test's input, in a temporary directory")]
    std::fs::write(dir.path().join("processor_config.json"), json!({"image_processor": new}).to_string())
        .unwrap();
    assert_eq!(Processor::open(dir.path()).unwrap(), old);
    let narrow = Rgb { width: 1, height: 30_000, levels: vec![0; 90_000] };
    assert!(matches!(old.process(&narrow), Err(ImageError::Narrow { .. })));
}
