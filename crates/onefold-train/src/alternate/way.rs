//! How far a training has come from where it began.

use rayon::prelude::*;

use crate::model::{Origin, Parameter, Parameters};

/// Elements that are read at once.
const PIECE: usize = 1 << 16;

/// ‖θ − θ₀‖ over everything that is trained but heads of tasks, θ₀ being what the checkpoint has; with adapters the norm of what
/// they add. None if an adapter is decomposed, which adds no product of its factors.
pub fn travelled(parameters: &Parameters) -> Option<f64> {
    let trained: Vec<&Parameter> = parameters.trainable().map(|(_, parameter)| parameter).collect();
    let squares: Vec<f64> = trained.into_par_iter().map(square).collect();
    Some((squares.into_iter().sum::<f64>() + parameters.adapted_square()?).sqrt())
}

fn square(parameter: &Parameter) -> f64 {
    let (Origin::Stored { tensor, .. }, Some(values)) = (&parameter.origin, parameter.trained()) else {
        return 0.0;
    };
    let size = PIECE.min(parameter.len());
    let (mut now, mut before) = (vec![0.0; size], vec![0.0; size]);
    let pieces = (0..parameter.len()).step_by(PIECE);
    pieces
        .map(|start| {
            let len = PIECE.min(parameter.len() - start);
            values.read(start, &mut now[..len]);
            tensor.read(start, &mut before[..len]);
            now[..len].iter().zip(&before[..len]).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        })
        .sum()
}
