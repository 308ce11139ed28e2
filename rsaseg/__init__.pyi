from rsaseg.scoring.cases import Rules as Rules
from rsaseg.scoring.evaluate import evaluate as evaluate
from rsaseg.scoring.summary import Evaluation as Evaluation
from rsaseg.segmentation import Segmentation as Segmentation
from rsaseg.segmentation import Settings as Settings
from rsaseg.segmentation import segment as segment
from rsaseg.segmentation.model import Model as Model
from rsaseg.segmentation.model import load_model as load_model

__version__: str
